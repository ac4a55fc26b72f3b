// Farkas convolutions (1x1 and 3x3, stride 1, zero padding that keeps the size) with images in the vector lanes.
//
// Libraries put channels into vector lanes, so that 17 channels cost what 32 do with AVX-512. Here a tensor lies in
// memory as (C, H, W, N), N a multiple of LANES, and a vector is one position of one channel of LANES images: no
// channel count wastes lanes, loads are aligned, and the zero padding is a column of zero vectors.
//
// Work is cut into items that threads share; no result depends on which thread computes an item.

#include <cstdlib>
#include <cstring>

// POSITIONS * OUT accumulators fill the registers: 32 of them, or 16 with AVX2.
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
// IN_REGISTER: compilers would read a value again from memory for each of its uses, which costs twice the time.

// Nor may they keep the pixels that the next tap needs too: that would leave the accumulators no registers.
#define UNROLL _Pragma("GCC unroll 9")
#define FORGET(p) asm("" : "+r"(p))

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

// Bands of rows of some blocks of images, copied together: (channels, stack, band + 2 edge, columns + 2 edge, LANES).
// In the tensor they are far apart, at multiples of powers of two, which a cache holds few of.
struct Buffer {
    integer edge, columns, pitch, block, plane;
    float* data;

    Buffer(const Layer& l, integer channels, integer columns, integer edge, integer stack)
        : edge(edge), columns(columns) {
        pitch = (columns + 2 * edge) * LANES;
        block = (l.band + 2 * edge) * pitch;
        plane = block * stack;
        if (posix_memalign((void**)&data, 64, sizeof(float) * channels * plane)) data = nullptr;
    }
    Buffer(const Buffer&) = delete;
    ~Buffer() { free(data); }

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

// The derivative of the epilogue: fills the buffer with the gradient of z, g_j - coefficient * g_m with both 0 where the
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

// The last bias of a Farkas layer: max(bound - Agg(b), b_m), with both arguments.
struct LastBias {
    float limit, own;
    LastBias(const float* bias, integer free, float coefficient, float bound) : own(bias[free]) {
        float sum = 0;
        for (integer o = 0; o < free; ++o) sum += bias[o];
        limit = bound - coefficient * sum;
    }
    float value() const { return limit < own || own != own ? own : limit; }
    float share() const { return limit > own ? 1.0f : limit == own ? 0.5f : 0.0f; }  // of its gradient that limit gets
};

struct Epilogue {
    const float *bias, *shortcut;  // without a bias: the bare sums, no aggregated channel
    float coefficient, last_bias;
    int relu;
    vec operator()(vec z) const { return relu ? (z < 0 ? vec{} : z) : z; }
};

template <int K, int O>
static void tile(const float* x, const Buffer& b, integer second, const float* w, const Layer& l, const Epilogue& e,
                 integer output, const integer* at, float* out, vec* total) {
    for (int o = 0; o < O; ++o)
        for (int v = 0; v < POSITIONS; ++v) {
            const integer to = (output + o) * l.plane() + (at[v] < 0 ? 0 : at[v]);
            if (e.shortcut) __builtin_prefetch(e.shortcut + to);
            __builtin_prefetch(out + to, 1);
        }
    vec sum[O][POSITIONS];
    UNROLL for (int o = 0; o < O; ++o)
        UNROLL for (int v = 0; v < POSITIONS; ++v) sum[o][v] = vec{};
    for (integer i = 0; i < l.inputs; ++i, x += b.plane)
        for (int ky = 0; ky < K; ++ky) {
            const float* p = x + ky * b.pitch;
            for (int kx = 0; kx < K; ++kx, w += O, p += LANES) {
                FORGET(p);
                vec row[O];
                UNROLL for (int o = 0; o < O; ++o) {
                    row[o] = splat(w[o]);
                    IN_REGISTER(row[o]);
                }
                UNROLL for (int v = 0; v < POSITIONS; ++v) {
                    vec pixels = load(p + v % GROUP * LANES + v / GROUP * second);
                    IN_REGISTER(pixels);
                    UNROLL for (int o = 0; o < O; ++o) sum[o][v] += row[o] * pixels;
                }
            }
        }
    vec result[O][POSITIONS];  // a copy, so that `sum` itself needs no memory
    UNROLL for (int o = 0; o < O; ++o)
        UNROLL for (int v = 0; v < POSITIONS; ++v) result[o][v] = sum[o][v];
    for (int o = 0; o < O; ++o) {
        const vec bias = splat(e.bias ? e.bias[output + o] : 0.0f);
        for (int v = 0; v < POSITIONS; ++v) {
            if (at[v] < 0) continue;
            const integer to = (output + o) * l.plane() + at[v];
            if (e.shortcut) result[o][v] += load(e.shortcut + to);
            total[v] += result[o][v];
            store(out + to, e(result[o][v] + bias));
        }
    }
}

// The weight in the order of reading: tile of outputs, input, tap, output in the tile.
static void pack(const float* weight, float* to, const Layer& l, const Parts& tiles) {
    for (integer t = 0; t < tiles.parts; ++t)
        for (integer i = 0; i < l.inputs; ++i)
            for (integer y = 0; y < l.kernel; ++y)
                for (integer x = 0; x < l.kernel; ++x)
                    for (integer o = tiles.first(t); o < tiles.first(t + 1); ++o)
                        *to++ = weight[o * l.of_output + i * l.of_input + y * l.of_row + x * l.of_column];
}

template <int K>
static void convolve_band(const Buffer& b, const float* x, const float* packed, const Parts& tiles, const Epilogue& e, float* out,
                          const Layer& l, integer lane, integer top, integer rows) {
    const integer across = (l.width + GROUP - 1) / GROUP, groups = rows * across;
    for (integer g = 0; g < groups; g += PARTS) {
        integer at[POSITIONS], from[PARTS];
        for (int k = 0; k < PARTS; ++k) {
            const integer group = least(g + k, groups - 1), y = group / across, column = group % across * GROUP;
            from[k] = y * b.pitch + column * LANES;
            for (int v = 0; v < GROUP; ++v)
                at[k * GROUP + v] = column + v < l.width ? ((top + y) * l.width + column + v) * l.images + lane : -1;
        }
        vec total[POSITIONS] = {};
        for (integer t = 0; t < tiles.parts; ++t) {
            const auto compute = tiles.size(t) == 3 ? tile<K, 3> : tiles.size(t) == 2 ? tile<K, 2> : tile<K, 1>;
            const integer o = tiles.first(t);
            compute(x + from[0], b, from[PARTS - 1] - from[0], packed + o * l.inputs * K * K, l, e, o, at, out,
                    total);
        }
        if (!e.bias) continue;
        const vec bias = splat(e.last_bias), coefficient = splat(e.coefficient);
        for (int v = 0; v < POSITIONS; ++v)
            if (at[v] >= 0) store(out + l.outputs * l.plane() + at[v], e(bias - coefficient * total[v]));
    }
}

template <int K, int R, int O, int I>
static void gradient_tile(const float* x, const Buffer& xs, const float* g, const Buffer& gs, integer blocks,
                          integer rows, bool add, float* out, const Layer& l) {
    vec sum[O][I][R][K];
    UNROLL for (int o = 0; o < O; ++o)
        UNROLL for (int i = 0; i < I; ++i)
            UNROLL for (int r = 0; r < R; ++r)
                UNROLL for (int k = 0; k < K; ++k) sum[o][i][r][k] = vec{};
    for (integer block = 0; block < blocks; ++block)
        for (integer y = 0; y < rows; ++y) {
            const float* p = x + block * xs.block + y * xs.pitch;
            const float* q = g + block * gs.block + y * gs.pitch;
            for (integer c = 0; c < l.width; ++c, p += LANES, q += LANES) {
                FORGET(p);
                vec of[O];
                UNROLL for (int o = 0; o < O; ++o) {
                    of[o] = load(q + o * gs.plane);
                    IN_REGISTER(of[o]);
                }
                UNROLL for (int i = 0; i < I; ++i)
                    UNROLL for (int r = 0; r < R; ++r)
                        UNROLL for (int k = 0; k < K; ++k) {
                            vec pixels = load(p + i * xs.plane + r * xs.pitch + k * LANES);
                            IN_REGISTER(pixels);
                            UNROLL for (int o = 0; o < O; ++o) sum[o][i][r][k] += of[o] * pixels;
                        }
            }
        }
    UNROLL for (int o = 0; o < O; ++o)
        UNROLL for (int i = 0; i < I; ++i)
            UNROLL for (int r = 0; r < R; ++r)
                UNROLL for (int k = 0; k < K; ++k) {
                    float& to = out[o * l.of_output + i * l.of_input + r * l.of_row + k * l.of_column];
                    to = (add ? to : 0.0f) + Sum<LANES>::of(sum[o][i][r][k]);
                }
}

template <int K, int I>
static void gradient_tiles(const Buffer& xs, const Buffer& gs, float* out, const Layer& l, integer i, integer blocks,
                           integer rows, bool add) {
    static const int R = POSITIONS == 8 ? K : 1;
    const Parts tiles(l.outputs, OUT);
    for (integer t = 0; t < tiles.parts; ++t)
        for (int y = 0; y < K; y += R) {
            const auto compute = tiles.size(t) == 3   ? gradient_tile<K, R, 3, I>
                                 : tiles.size(t) == 2 ? gradient_tile<K, R, 2, I>
                                                      : gradient_tile<K, R, 1, I>;
            const integer o = tiles.first(t);
            compute(xs.data + i * xs.plane + y * xs.pitch, xs, gs.row(o, gs.edge) + gs.edge * LANES, gs, blocks, rows, add,
                    out + o * l.of_output + i * l.of_input + y * l.of_row, l);
        }
}

// All taps of one input, or several inputs where there is but one tap.
template <int K>
static void gradient_band(const Buffer& xs, const Buffer& gs, float* out, const Layer& l, integer blocks, integer rows,
                          bool add) {
    static const int I = K == 1 ? 4 : 1;
    integer i = 0;
    for (; i + I <= l.inputs; i += I) gradient_tiles<K, I>(xs, gs, out, l, i, blocks, rows, add);
    for (; i < l.inputs; ++i) gradient_tiles<K, 1>(xs, gs, out, l, i, blocks, rows, add);
}

extern "C" {

int farkas_lanes() { return LANES; }

// out[n, o] = relu(bias[o] + z), z = shortcut[n, o] + sum_i weight[o, i] * x[n, i], and behind the outputs the channel
// relu(bias[outputs] - coefficient * sum_o z). Items are bands of rows. Returns 0, or 1 without memory.
int farkas_convolve(const float* x, const float* weight, const float* bias, const float* shortcut, float coefficient,
                    float bound, int relu, float* out, const Layer* layer, integer first, integer last) {
    const Layer& l = *layer;
    const Parts tiles(l.outputs, OUT);
    const float last_bias = LastBias(bias, l.outputs, coefficient, bound).value();
    const Epilogue e = {bias, shortcut, coefficient, last_bias, relu};
    Buffer b(l, l.inputs, (l.width + GROUP - 1) / GROUP * GROUP, l.kernel / 2, l.stack);
    float* packed = (float*)malloc(sizeof(float) * l.inputs * l.outputs * l.kernel * l.kernel);
    const int failed = !b.data || !packed;
    if (!failed) pack(weight, packed, l, tiles);
    for (integer item = first; item < last && !failed; ++item) {
        const integer lane = item / l.bands() * l.stack * LANES, top = item % l.bands() * l.band;
        const integer blocks = least(l.stack, (l.images - lane) / LANES), rows = least(l.band, l.height - top);
        b.fill(x + lane, l, l.inputs, blocks, top, rows);
        for (integer k = 0; k < blocks; ++k)
            (l.kernel == 3 ? convolve_band<3> : convolve_band<1>)(b, b.data + k * b.block, packed, tiles, e, out, l,
                                                                  lane + k * LANES, top, rows);
    }
    free(packed);
    return failed;
}

// The gradients of `farkas_convolve`; `output` is null without a ReLU, `shortcut`, `input` and `weight` where they are
// not wanted, and `extra` is added to that of the input. The sums in `weight` and `bias` are over the given items.
int farkas_backward(const float* x, const float* weights, const float* gradient, const float* output,
                    float coefficient, const float* extra, float* input, float* weight, float* bias, float* shortcut,
                    const Layer* layer, integer first, integer last) {
    const Layer& l = *layer;
    const integer edge = l.kernel / 2, corner = l.kernel - 1;
    Layer back = l;  // the convolution with the transposed, mirrored weight
    back.inputs = l.outputs, back.outputs = l.inputs, back.of_output = l.of_input, back.of_input = l.of_output;
    back.of_row = -l.of_row, back.of_column = -l.of_column;
    const Parts tiles(l.inputs, OUT);
    const Epilogue e = {nullptr, extra, 0, 0, 0};
    Buffer gs(l, l.outputs, (l.width + GROUP - 1) / GROUP * GROUP, edge, l.stack), xs(l, l.inputs, l.width, edge, l.stack);
    Buffer aggregated(l, 1, l.width, 0, l.stack);
    float* packed = (float*)malloc(sizeof(float) * l.inputs * l.outputs * l.kernel * l.kernel);
    const int failed = !gs.data || !xs.data || !aggregated.data || !packed;
    if (!failed) {
        pack(weights + corner * (l.of_row + l.of_column), packed, back, tiles);
        memset(bias, 0, sizeof(float) * (l.outputs + 1));
    }
    for (integer item = first; item < last && !failed; ++item) {
        const integer lane = item / l.bands() * l.stack * LANES, top = item % l.bands() * l.band;
        const integer blocks = least(l.stack, (l.images - lane) / LANES), rows = least(l.band, l.height - top);
        fill_gradient(gs, gradient + lane, output ? output + lane : nullptr, coefficient,
                      shortcut ? shortcut + lane : nullptr, bias, l, aggregated.data, blocks, top, rows);
        for (integer k = 0; k < blocks && input; ++k)
            (l.kernel == 3 ? convolve_band<3> : convolve_band<1>)(gs, gs.data + k * gs.block, packed, tiles, e, input,
                                                                  back, lane + k * LANES, top, rows);
        if (!weight) continue;
        xs.fill(x + lane, l, l.inputs, blocks, top, rows);
        (l.kernel == 3 ? gradient_band<3> : gradient_band<1>)(xs, gs, weight, l, blocks, rows, item > first);
    }
    free(packed);
    return failed;
}

// From `parts` rows of sums, the gradients of all biases, to that of the layer's own.
void farkas_bias_gradient(const float* sums, integer parts, const float* bias, float coefficient, float bound,
                          float* out, integer outputs) {
    const LastBias last(bias, outputs, coefficient, bound);
    for (integer o = outputs; o >= 0; --o) {
        out[o] = 0;
        for (integer part = 0; part < parts; ++part) out[o] += sums[part * (outputs + 1) + o];
        if (o < outputs) out[o] -= coefficient * last.share() * out[outputs];
    }
    out[outputs] *= 1 - last.share();
}
}
