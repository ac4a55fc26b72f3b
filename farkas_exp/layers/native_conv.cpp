// 3x3 convolutions (stride 1, zero padding 1) for channel counts that are no multiple of the vector width.
//
// Libraries put channels into vector lanes: 17 channels cost as much as 24. Here the lanes are neighbouring pixels, so
// the cost grows with the channels themselves. Images are planar (C, H, W), float32, W = 8, 16 or a multiple of 32,
// H * W a multiple of 32.

#include <cstdlib>
#include <cstring>

typedef float vec __attribute__((vector_size(32)));
typedef float loose_vec __attribute__((vector_size(32), aligned(4)));

static inline vec load(const float* p) { return *(const loose_vec*)p; }
static inline void store(float* p, vec v) { *(loose_vec*)p = v; }
// Keeps a value in a register: compilers read it again from memory for each of its uses, which costs twice the time.
#if defined(__x86_64__)
#define IN_REGISTER(v) asm volatile("" : "+x"(v))
#else
#define IN_REGISTER(v)
#endif
static inline vec splat(float x) { return vec{x, x, x, x, x, x, x, x}; }

static float lane_sum(vec s) { return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7])); }

static const int TILE = 4;   // vectors of pixels: 32 pixels, of 32 / W rows
static const int OUT = 2;    // output channels beside them: 8 accumulators, as many as hide the latency of two units
static const int GRAD = 4;   // gradient channels in the weight gradient

// Copies an image into the middle of planes with a border of zeros, `step` apart; the borders are zero already.
static void pad(const float* image, float* padded, int channels, int height, int width, size_t step) {
    const int pitch = width + 2;
    for (int c = 0; c < channels; ++c)
        for (int y = 0; y < height; ++y)
            memcpy(padded + c * step + (y + 1) * pitch + 1, image + (c * height + y) * width, sizeof(float) * width);
}

template <int O>
static void convolve_tile(const float* x, const float* weights, const float* bias, float* out, int inputs, int plane,
                          int pitch, const int* at, const int* to, int out_plane) {
    vec sum[O][TILE];
    for (int o = 0; o < O; ++o)
        for (int v = 0; v < TILE; ++v) sum[o][v] = splat(bias ? bias[o] : 0.0f);
    for (int i = 0; i < inputs; ++i, x += plane)
        for (int ky = 0; ky < 3; ++ky)
            for (int kx = 0; kx < 3; ++kx, weights += O) {
                const float* p = x + ky * pitch + kx;
                vec w[O];
                for (int o = 0; o < O; ++o) {
                    w[o] = splat(weights[o]);
                    IN_REGISTER(w[o]);
                }
                for (int v = 0; v < TILE; ++v) {
                    vec pixels = load(p + at[v]);
                    IN_REGISTER(pixels);
                    for (int o = 0; o < O; ++o) sum[o][v] += w[o] * pixels;
                }
            }
    for (int o = 0; o < O; ++o)
        for (int v = 0; v < TILE; ++v) store(out + o * out_plane + to[v], sum[o][v]);
}

template <int O>
static void gradient_tile(const float* x, const float* g, int images, int x_image, int g_image, int height, int width,
                          float* out, int g_plane, int out_row) {
    // sum[o][kx] over all pixels; x points at the row ky of one input plane.
    const int pitch = width + 2;
    vec sum[O][3];
    for (int o = 0; o < O; ++o)
        for (int k = 0; k < 3; ++k) sum[o][k] = splat(0.0f);
    for (int n = 0; n < images; ++n)
        for (int y = 0; y < height; ++y)
            for (int c = 0; c < width; c += 8) {
                const float* p = x + n * x_image + y * pitch + c;
                const float* q = g + n * g_image + y * width + c;
                vec a = load(p), b = load(p + 1), d = load(p + 2);
                IN_REGISTER(a);
                IN_REGISTER(b);
                IN_REGISTER(d);
                for (int o = 0; o < O; ++o) {
                    vec r = load(q + o * g_plane);
                    IN_REGISTER(r);
                    sum[o][0] += r * a;
                    sum[o][1] += r * b;
                    sum[o][2] += r * d;
                }
            }
    for (int o = 0; o < O; ++o)
        for (int k = 0; k < 3; ++k) out[o * out_row + k] += lane_sum(sum[o][k]);
}

static float plane_sum(const float* p, int pixels) {  // a multiple of 32
    vec a = splat(0.0f), b = a, c = a, d = a;
    for (int i = 0; i < pixels; i += 32) {
        a += load(p + i);
        b += load(p + i + 8);
        c += load(p + i + 16);
        d += load(p + i + 24);
    }
    return lane_sum((a + b) + (c + d));
}

extern "C" {

// out[n, o] = bias[o] + sum_i weight[o, i] * x[n, i]. `transposed`: the weight is (inputs, outputs, 3, 3) and is
// applied mirrored, which makes the gradient with respect to the input. Returns 0, or 1 without memory.
int farkas_conv3x3(const float* x, const float* weight, const float* bias, float* out, int images, int inputs,
                   int outputs, int height, int width, int transposed) {
    const int pitch = width + 2, plane = (height + 2) * pitch, out_plane = height * width;
    float* padded = (float*)calloc((size_t)inputs * plane + 8, sizeof(float));
    float* packed = (float*)malloc(sizeof(float) * (size_t)inputs * outputs * 9);
    if (!padded || !packed) {
        free(padded);
        free(packed);
        return 1;
    }
    float* next = packed;  // in the order of reading: tile of outputs, input, tap, output in the tile
    for (int o = 0; o < outputs; o += OUT)
        for (int i = 0; i < inputs; ++i)
            for (int k = 0; k < 9; ++k)
                for (int t = o; t < o + OUT && t < outputs; ++t)
                    *next++ = transposed ? weight[((size_t)i * outputs + t) * 9 + 8 - k]
                                         : weight[((size_t)t * inputs + i) * 9 + k];
    int at[TILE], to[TILE];
    for (int v = 0; v < TILE; ++v) {
        at[v] = v * 8 / width * pitch + v * 8 % width;
        to[v] = v * 8 / width * width + v * 8 % width;
    }
    for (int n = 0; n < images; ++n) {
        pad(x + (size_t)n * inputs * out_plane, padded, inputs, height, width, plane);
        float* image = out + (size_t)n * outputs * out_plane;
        for (int first = 0; first < out_plane; first += TILE * 8) {
            const float* p = padded + first / width * pitch + first % width;
            for (int o = 0; o < outputs; o += OUT) {
                const float *w = packed + (size_t)o * inputs * 9, *b = bias ? bias + o : nullptr;
                float* q = image + (size_t)o * out_plane + first;
                if (outputs - o >= 2) convolve_tile<2>(p, w, b, q, inputs, plane, pitch, at, to, out_plane);
                else convolve_tile<1>(p, w, b, q, inputs, plane, pitch, at, to, out_plane);
            }
        }
    }
    free(padded);
    free(packed);
    return 0;
}

// weight[o, i] += sum over images and pixels of gradient[n, o] * x[n, i], shifted, (outputs, inputs, 3, 3), and
// bias[o] += the sum of gradient[n, o].
int farkas_conv3x3_weight(const float* x, const float* gradient, float* weight, float* bias, int images, int inputs,
                          int outputs, int height, int width) {
    const int plane = (height + 2) * (width + 2), g_plane = height * width, g_image = outputs * g_plane;
    // Some images at once: enough pixels to outweigh the sum over the lanes, few enough for the second-level cache.
    int chunk = g_plane < 1024 ? 1024 / g_plane : 1;
    chunk = chunk > images ? images : chunk;
    // One plane of all images, then the next: a tile of gradients meets its input planes in the order of memory.
    const int step = chunk * plane;
    float* padded = (float*)calloc((size_t)inputs * step + 8, sizeof(float));
    if (!padded) return 1;
    for (int first = 0; first < images; first += chunk) {
        const int count = images - first < chunk ? images - first : chunk;
        for (int n = 0; n < count; ++n)
            pad(x + (size_t)(first + n) * inputs * g_plane, padded + (size_t)n * plane, inputs, height, width, step);
        const float* start = gradient + (size_t)first * g_image;
        for (int n = 0; n < count; ++n)
            for (int o = 0; o < outputs; ++o) bias[o] += plane_sum(start + (size_t)n * g_image + o * g_plane, g_plane);
        for (int o = 0; o < outputs; o += GRAD)
            for (int i = 0; i < inputs; ++i)
                for (int ky = 0; ky < 3; ++ky) {
                    const float *p = padded + (size_t)i * step + ky * (width + 2), *g = start + o * g_plane;
                    float* w = weight + ((size_t)o * inputs + i) * 9 + ky * 3;
                    const int row = inputs * 9;
                    switch (outputs - o) {
                        case 1: gradient_tile<1>(p, g, count, plane, g_image, height, width, w, g_plane, row); break;
                        case 2: gradient_tile<2>(p, g, count, plane, g_image, height, width, w, g_plane, row); break;
                        case 3: gradient_tile<3>(p, g, count, plane, g_image, height, width, w, g_plane, row); break;
                        default: gradient_tile<4>(p, g, count, plane, g_image, height, width, w, g_plane, row);
                    }
                }
    }
    free(padded);
    return 0;
}
}
