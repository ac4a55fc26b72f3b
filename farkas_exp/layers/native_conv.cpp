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
#define FORGET(p) asm("" : "+r"(p))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef long long integer;

static const int OUT = 3;    // output channels of a tile
static const int GROUP = 4;  // neighbouring positions of a row; a tile has one or two groups, maybe of different rows
static const int PARTS = POSITIONS / GROUP;
static const int GRADIENT_OUT = POSITIONS == 8 ? 4 : 3, GRADIENT_IN = POSITIONS == 8 ? 2 : 1;

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
    integer edge, pitch, block, plane;
    float* data;

    Buffer(const Layer& l, integer channels, integer columns, integer edge, integer stack) : edge(edge) {
        pitch = (columns + 2 * edge) * LANES;
        block = (l.band + 2 * edge) * pitch;
        plane = block * stack;
        const size_t bytes = sizeof(float) * channels * plane;
        if (posix_memalign((void**)&data, 64, bytes)) data = nullptr;
        else memset(data, 0, bytes);
    }
    Buffer(const Buffer&) = delete;
    ~Buffer() { free(data); }

    void fill(const float* x, const Layer& l, integer channels, integer number, integer top, integer rows) {
        for (integer c = 0; c < channels; ++c)
            for (integer y = top - edge; y < top + rows + edge; ++y) {
                float* to = data + c * plane + number * block + (y - top + edge) * pitch;
                if (y < 0 || y >= l.height) {
                    memset(to, 0, sizeof(float) * pitch);
                    continue;
                }
                const float* from = x + (c * l.height + y) * l.width * l.images;
                to += edge * LANES;
                for (integer i = 0; i < l.width; ++i) store(to + i * LANES, load(from + i * l.images));
            }
    }
};

struct Parts {  // `count` channels in parts that differ by at most one and have at most `largest`
    integer count, parts;
    Parts(integer count, integer largest) : count(count), parts((count + largest - 1) / largest) {}
    integer first(integer number) const { return count * number / parts; }
    integer size(integer number) const { return first(number + 1) - first(number); }
};

struct Epilogue {
    const float *bias, *shortcut;  // without a bias: the bare sums, no aggregated channel
    float coefficient;
    int relu;
    vec operator()(vec z) const { return relu ? (z < 0 ? vec{} : z) : z; }
};

template <int K, int O>
static void tile(const float* x, const Buffer& b, integer second, const float* w, const Layer& l, const Epilogue& e,
                 integer output, const integer* at, float* out, vec* total) {
    vec sum[O][POSITIONS];
    for (int o = 0; o < O; ++o)
        for (int v = 0; v < POSITIONS; ++v) sum[o][v] = vec{};
    for (integer i = 0; i < l.inputs; ++i, x += b.plane)
        for (int ky = 0; ky < K; ++ky) {
            const float* p = x + ky * b.pitch;
            for (int kx = 0; kx < K; ++kx, w += O, p += LANES) {
                FORGET(p);
                vec row[O];
                for (int o = 0; o < O; ++o) {
                    row[o] = splat(w[o]);
                    IN_REGISTER(row[o]);
                }
                for (int v = 0; v < POSITIONS; ++v) {
                    vec pixels = load(p + v % GROUP * LANES + v / GROUP * second);
                    IN_REGISTER(pixels);
                    for (int o = 0; o < O; ++o) sum[o][v] += row[o] * pixels;
                }
            }
        }
    for (int o = 0; o < O; ++o) {
        const vec bias = splat(e.bias ? e.bias[output + o] : 0.0f);
        for (int v = 0; v < POSITIONS; ++v) {
            if (at[v] < 0) continue;
            const integer to = (output + o) * l.plane() + at[v];
            if (e.shortcut) sum[o][v] += load(e.shortcut + to);
            total[v] += sum[o][v];
            store(out + to, e(sum[o][v] + bias));
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
static void convolve_band(const Buffer& b, const float* packed, const Parts& tiles, const Epilogue& e, float* out,
                          const Layer& l, integer lane, integer top, integer rows) {
    const integer across = (l.width + GROUP - 1) / GROUP, groups = rows * across;
    for (integer g = 0; g < groups; g += PARTS) {
        integer at[POSITIONS], from[PARTS];
        for (int k = 0; k < PARTS; ++k) {
            const integer group = least(g + k, groups - 1), y = group / across, x = group % across * GROUP;
            from[k] = y * b.pitch + x * LANES;
            for (int v = 0; v < GROUP; ++v)
                at[k * GROUP + v] = x + v < l.width ? ((top + y) * l.width + x + v) * l.images + lane : -1;
        }
        vec total[POSITIONS] = {};
        for (integer t = 0; t < tiles.parts; ++t) {
            const auto compute = tiles.size(t) == 3 ? tile<K, 3> : tiles.size(t) == 2 ? tile<K, 2> : tile<K, 1>;
            const integer o = tiles.first(t);
            compute(b.data + from[0], b, from[PARTS - 1] - from[0], packed + o * l.inputs * K * K, l, e, o, at, out,
                    total);
        }
        if (!e.bias) continue;
        const vec bias = splat(e.bias[l.outputs]), coefficient = splat(e.coefficient);
        for (int v = 0; v < POSITIONS; ++v)
            if (at[v] >= 0) store(out + l.outputs * l.plane() + at[v], e(bias - coefficient * total[v]));
    }
}

template <int K, int O, int I>
static void gradient_tile(const float* x, const Buffer& xs, const float* g, const Buffer& gs, integer blocks,
                          integer rows, float* out, const Layer& l) {
    vec sum[O][I][K];
    for (int o = 0; o < O; ++o)
        for (int i = 0; i < I; ++i)
            for (int k = 0; k < K; ++k) sum[o][i][k] = vec{};
    for (integer row = 0; row < blocks * rows; ++row) {
        const float* p = x + row / rows * xs.block + row % rows * xs.pitch;
        const float* q = g + row / rows * gs.block + row % rows * gs.pitch;
        for (integer c = 0; c < l.width; ++c, p += LANES, q += LANES) {
            vec of[O];
            for (int o = 0; o < O; ++o) {
                of[o] = load(q + o * gs.plane);
                IN_REGISTER(of[o]);
            }
            for (int i = 0; i < I; ++i)
                for (int k = 0; k < K; ++k) {
                    vec pixels = load(p + i * xs.plane + k * LANES);
                    IN_REGISTER(pixels);
                    for (int o = 0; o < O; ++o) sum[o][i][k] += of[o] * pixels;
                }
        }
    }
    for (int o = 0; o < O; ++o)
        for (int i = 0; i < I; ++i)
            for (int k = 0; k < K; ++k)
                out[o * l.of_output + i * l.of_input + k * l.of_column] += Sum<LANES>::of(sum[o][i][k]);
}

template <int K>
static void gradient_band(const Buffer& xs, const Buffer& gs, float* out, const Layer& l, integer count,
                          integer blocks, integer rows) {
    static const decltype(&gradient_tile<K, 1, 1>) tiles[2][4] = {
        {gradient_tile<K, 1, 1>, gradient_tile<K, 2, 1>, gradient_tile<K, 3, 1>, gradient_tile<K, 4, 1>},
        {gradient_tile<K, 1, 2>, gradient_tile<K, 2, 2>, gradient_tile<K, 3, 2>, gradient_tile<K, 4, 2>}};
    const Parts os(count, GRADIENT_OUT), is(l.inputs, GRADIENT_IN);
    for (integer s = 0; s < os.parts; ++s)
        for (integer t = 0; t < is.parts; ++t)
            for (int y = 0; y < K; ++y) {
                const integer o = os.first(s), i = is.first(t);
                const auto compute = tiles[is.size(t) - 1][os.size(s) - 1];
                compute(xs.data + i * xs.plane + y * xs.pitch, xs, gs.data + o * gs.plane, gs, blocks, rows,
                        out + o * l.of_output + i * l.of_input + y * l.of_row, l);
            }
}

extern "C" {

int farkas_lanes() { return LANES; }

// out[n, o] = relu(bias[o] + z), z = shortcut[n, o] + sum_i weight[o, i] * x[n, i], and behind the outputs the channel
// relu(bias[outputs] - coefficient * sum_o z). Items are bands of rows. Returns 0, or 1 without memory.
int farkas_convolve(const float* x, const float* weight, const float* bias, const float* shortcut, float coefficient,
                    int relu, float* out, const Layer* layer, integer first, integer last) {
    const Layer& l = *layer;
    const Parts tiles(l.outputs, OUT);
    const Epilogue e = {bias, shortcut, coefficient, relu};
    Buffer b(l, l.inputs, (l.width + GROUP - 1) / GROUP * GROUP, l.kernel / 2, 1);
    float* packed = (float*)malloc(sizeof(float) * l.inputs * l.outputs * l.kernel * l.kernel);
    const int failed = !b.data || !packed;
    if (!failed) pack(weight, packed, l, tiles);
    for (integer item = first; item < last && !failed; ++item) {
        const integer lane = item / l.bands() * LANES, top = item % l.bands() * l.band;
        const integer rows = least(l.band, l.height - top);
        b.fill(x + lane, l, l.inputs, 0, top, rows);
        (l.kernel == 3 ? convolve_band<3> : convolve_band<1>)(b, packed, tiles, e, out, l, lane, top, rows);
    }
    free(packed);
    return failed;
}

// weight[o, i] += sum over images and positions of g[n, o] * x[n, i], shifted. Items are outputs.
int farkas_weight_gradient(const float* x, const float* g, float* weight, const Layer* layer, integer first,
                           integer last) {
    const Layer& l = *layer;
    const integer count = last - first;
    Buffer xs(l, l.inputs, l.width, l.kernel / 2, l.stack), gs(l, count, l.width, 0, l.stack);
    if (!xs.data || !gs.data) return 1;
    for (integer lane = 0; lane < l.images; lane += l.stack * LANES)
        for (integer top = 0; top < l.height; top += l.band) {
            const integer blocks = least(l.stack, (l.images - lane) / LANES), rows = least(l.band, l.height - top);
            for (integer k = 0; k < blocks; ++k) {
                xs.fill(x + lane + k * LANES, l, l.inputs, k, top, rows);
                gs.fill(g + lane + k * LANES + first * l.plane(), l, count, k, top, rows);
            }
            float* out = weight + first * l.of_output;
            (l.kernel == 3 ? gradient_band<3> : gradient_band<1>)(xs, gs, out, l, count, blocks, rows);
        }
    return 0;
}

// The derivative of the epilogue: from the gradient (m channels) to that of z (m - 1): g_j - coefficient * g_m, both 0
// where the output is not positive, if there is one; `sums` (items, m) has the sums of g. Items are pieces of a plane.
int farkas_epilogue_gradient(const float* gradient, const float* output, float coefficient, float* out, float* sums,
                             integer channels, integer plane, integer piece, integer first, integer last) {
    float* aggregated = nullptr;
    if (posix_memalign((void**)&aggregated, 64, sizeof(float) * piece)) return 1;
    for (integer item = first; item < last; ++item) {
        const integer from = item * piece, size = least(piece, plane - from);
        for (integer c = channels - 1; c >= 0; --c) {
            const float *g = gradient + c * plane + from, *y = output ? output + c * plane + from : nullptr;
            float* to = c == channels - 1 ? aggregated : out + c * plane + from;
            const vec factor = splat(c == channels - 1 ? 0.0f : coefficient);
            if (c == channels - 1) memset(aggregated, 0, sizeof(float) * piece);
            vec sum = {};
            for (integer i = 0; i < size; i += LANES) {
                vec v = load(g + i);
                if (y) v = load(y + i) <= 0 ? vec{} : v;
                sum += v;
                store(to + i, v - factor * load(aggregated + i));
            }
            sums[item * channels + c] = Sum<LANES>::of(sum);
        }
    }
    free(aggregated);
    return 0;
}
}
