// Vectors of images, and the buffers that bands of rows are copied to; see native_conv.cpp.

#pragma once

#include <cstdlib>
#include <cstring>

// POSITIONS * OUT accumulators fill the registers: 32 of them, or 16 with AVX2.
// IN_REGISTER: compilers would read a value again from memory for each of its uses, which costs twice the time.
#if defined(__AVX512F__)
enum { LANES = 16, POSITIONS = 8 };
#define IN_REGISTER(v) asm("" : "+v"(v))
#elif defined(__AVX__)
enum { LANES = 8, POSITIONS = 4 };
#define IN_REGISTER(v) asm("" : "+x"(v))
#elif defined(__aarch64__)
enum { LANES = 4, POSITIONS = 8 };
#define IN_REGISTER(v) asm("" : "+w"(v))
#else
enum { LANES = 4, POSITIONS = 4 };
#define IN_REGISTER(v)
#endif
// FORGET: nor may they keep the pixels that the next tap needs too: that would leave the accumulators no registers.
#define FORGET(p) asm("" : "+r"(p))
// UNROLL: an array lives in registers only if its indices are constants early on.
#define UNROLL _Pragma("GCC unroll 9")

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef long long integer;

static const int OUT = 3;    // output channels of a tile
static const int GROUP = 4;  // neighbouring positions of a row; a tile has one or two groups, maybe of different rows
static const int PARTS = POSITIONS / GROUP;

static inline vec load(const float* p) { return *(const vec*)p; }
static inline void store(float* p, vec v) { *(vec*)p = v; }
static inline vec splat(float x) { return x - vec{}; }
static inline integer least(integer a, integer b) { return a < b ? a : b; }

template <int N>
struct Sum {  // by halves: lane after lane would be one chain of scalar additions
    typedef float type __attribute__((vector_size(4 * N)));
    static inline float of(type v) {
        typename Sum<N / 2>::type half[2];
        memcpy(half, &v, sizeof v);
        return Sum<N / 2>::of(half[0] + half[1]);
    }
};
template <>
struct Sum<4> {
    typedef float type __attribute__((vector_size(16)));
    static inline float of(type v) { return (v[0] + v[2]) + (v[1] + v[3]); }
};

struct Layer {
    integer images, inputs, outputs, height, width, kernel;
    integer of_output, of_input, of_row, of_column;  // strides of the weight
    integer band, stack;                             // rows and blocks of images that are worked on at a time
    integer plane() const { return height * width * images; }
    integer bands() const { return (height + band - 1) / band; }
};

// Memory that a thread keeps: fetched anew for each call, its pages would cost as much as some convolutions.
struct Scratch {
    float* data = nullptr;
    size_t size = 0;
    float* get(size_t wanted) {  // null without memory
        if (wanted > size) {
            free(data);
            size = posix_memalign((void**)&data, 64, wanted) ? 0 : wanted;
        }
        return size ? data : data = nullptr;
    }
    ~Scratch() { free(data); }
};
static thread_local Scratch scratch[2];

// Bands of rows of some blocks of images, copied together: (channels, stack, band + 2 edge, columns + 2 edge, LANES).
// In the tensor they are far apart, at multiples of powers of two, which a cache holds few of.
struct Buffer {
    integer edge, columns, pitch, block, plane;
    float* data;

    Buffer(const Layer& l, integer channels, integer columns, integer edge, integer stack, Scratch& memory)
        : edge(edge), columns(columns) {
        pitch = (columns + 2 * edge) * LANES;
        block = (l.band + 2 * edge) * pitch;
        plane = (block * stack + 15) / 32 * 32 + 16;  // an odd number of cache lines: channels spread over the cache
        data = memory.get(sizeof(float) * channels * plane);
    }
    Buffer(const Buffer&) = delete;

    float* row(integer channel, integer number) const { return data + channel * plane + number * pitch; }

    // Zeros beside a row of an image, or in all of a row outside of it; returns whether it is outside.
    bool pad(float* row, const Layer& l, integer blocks, integer y) const {
        const integer beside = columns + edge - l.width;
        const bool outside = y < 0 || y >= l.height;
        for (integer k = 0; k < blocks; ++k, row += block) {
            memset(row, 0, sizeof(float) * (outside ? pitch : edge * LANES));
            memset(row + pitch - beside * LANES, 0, sizeof(float) * beside * LANES);
        }
        return outside;
    }

    void fill(const float* x, const Layer& l, integer channels, integer blocks, integer top, integer rows) {
        for (integer c = 0; c < channels; ++c)
            for (integer y = top - edge; y < top + rows + edge; ++y) {
                float* to = row(c, y - top + edge);
                if (pad(to, l, blocks, y)) continue;
                const float* from = x + (c * l.height + y) * l.width * l.images;
                to += edge * LANES;
                for (integer i = 0; i < l.width; ++i, from += l.images, to += LANES)
                    for (integer k = 0; k < blocks; ++k) store(to + k * block, load(from + k * LANES));
            }
    }
};

// The derivative of the epilogue: fills the buffer with the gradient of z, g_j - coefficient * g_m, both 0 where the
// output is not positive, writes that to `shortcut` too, if there is one, and adds the sums of g to `sums`.
static void fill_gradient(Buffer& b, const float* g, const float* output, float coefficient, float* shortcut,
                          float* sums, const Layer& l, float* aggregated, integer blocks, integer top, integer rows) {
    for (integer y = top - b.edge; y < top + rows + b.edge; ++y) {
        const bool inside = y >= top && y < top + rows;
        for (integer c = l.outputs; c >= 0; --c) {
            float* to = c == l.outputs ? aggregated : b.row(c, y - top + b.edge);
            const integer jump = c == l.outputs ? l.width * LANES : b.block;
            if (c < l.outputs) {
                if (b.pad(to, l, blocks, y)) continue;
                to += b.edge * LANES;
            } else if (y < 0 || y >= l.height) continue;
            const vec factor = splat(coefficient);
            integer at = (c * l.height + y) * l.width * l.images;
            vec sum = {};
            for (integer i = 0; i < l.width; ++i, at += l.images)
                for (integer k = 0; k < blocks; ++k) {
                    vec v = load(g + at + k * LANES);
                    if (output) v = load(output + at + k * LANES) <= 0 ? vec{} : v;
                    sum += v;
                    if (c < l.outputs) v -= factor * load(aggregated + (k * l.width + i) * LANES);
                    store(to + k * jump + i * LANES, v);
                    if (inside && shortcut && c < l.outputs) store(shortcut + at + k * LANES, v);
                }
            if (inside) sums[c] += Sum<LANES>::of(sum);
        }
    }
}

struct Parts {  // `count` channels in parts that differ by at most one and have at most `largest`
    integer count, parts;
    Parts(integer count, integer largest) : count(count), parts((count + largest - 1) / largest) {}
    integer first(integer number) const { return count * number / parts; }
    integer size(integer number) const { return first(number + 1) - first(number); }
};
