// The forward pass of the model for generation on a CPU, in float32, with a key-value cache.
//
// The same arithmetic as Decoder.compute in decode.py, for tokens of any number of sequences; a
// test compares the two. What it saves is everything around the arithmetic: some 20 calls into
// PyTorch a layer, which for a single sequence cost more than reading the weights. decode.py
// compiles this file once with the machine's C compiler and calls it through ctypes. Without a
// compiler, PyTorch does it all.
//
// Sizes in shape comments: N or B tokens, C channels (n_embd), F inner width (n_ff), H query heads,
// Hkv heads of keys and values, D head size, V vocabulary.
//
// A weight matrix with K inputs and N outputs is packed in panels: packed[N / TILE][K][TILE]. A
// panel is TILE outputs side by side with all inputs below each other, so that it streams through
// the vector unit in one piece. Zeros fill up the last panel.
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

// WIDTH: floats in a vector. VECTORS: vectors side by side in a panel. ROWS: tokens at a time, so
// many that ROWS * VECTORS sums just fit into the registers.
#if defined(__AVX512F__)
enum { WIDTH = 16, VECTORS = 2, ROWS = 12 };
#elif defined(__AVX2__)
enum { WIDTH = 8, VECTORS = 2, ROWS = 6 };
#else
enum { WIDTH = 4, VECTORS = 4, ROWS = 6 };
#endif
enum { TILE = WIDTH * VECTORS, MAX_ROWS = 12 };
typedef float vector __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))

typedef struct {
    int64_t n_layer, n_embd, n_head, n_kv_head, head_size, n_ff, vocab_size;
    // The longest sequence; the size of the cache.
    int64_t max_size, cache_rows, cache_size;
    // embed (V, C), normalised; head, packed; cos and sin (max_size, D / 2).
    const float *embed, *head, *cos, *sin;
    // Packed, a pointer a layer. In gate_up the panels of both matrices take turns.
    const float **wqkv, **wo, **gate_up, **down;
    // (n_layer, cache_rows, 2 Hkv, cache_size, D): keys, then values.
    float *cache;
    // Scratch: (N, C), (N, (H + 2 Hkv) D), (N, H D), (N, F), (threads, max_size).
    float *x, *qkv, *y, *hidden, *scores;
} Model;

// A token at position `position` of the sequence in cache row `row`.
typedef struct {
    int64_t id, row, position;
} Token;

int tile(void) { return TILE; }
int width(void) { return WIDTH; }

// Ask for pages of 2 MB instead of 4 KB: fewer addresses to look up. It is only a hint.
void use_huge_pages(char *start, int64_t bytes) {
    #ifdef MADV_HUGEPAGE
    char *first = (char *)(((uintptr_t)start + 4095) & ~(uintptr_t)4095);
    if (start + bytes > first) madvise(first, start + bytes - first, MADV_HUGEPAGE);
    #endif
}

INLINE float dot(const float *a, const float *b, int64_t n) {
    float s = 0;
    // Many partial sums: with a single one, every addition would wait for the one before.
    #pragma omp simd reduction(+:s)
    for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

INLINE float inverse_rms(const float *x, int64_t n) {
    return 1.0f / sqrtf(dot(x, x, n) / n + 1e-6f);
}

// e^x as 2^n e^f with |f| <= ln(2) / 2, and e^f by its Taylor polynomial: the relative error is
// below 3e-7. Unlike calls of expf, loops of it become vector instructions.
INLINE float exponential(float x) {
    float t = fmaxf(x, -87.0f) * 1.44269504f;
    float n = floorf(t + 0.5f);
    float f = (t - n) * 0.693147181f;
    float p = 1 + f * (1 + f * (1 / 2.f + f * (1 / 6.f + f * (1 / 24.f
                + f * (1 / 120.f + f * (1 / 720.f))))));
    // The bits of the float 2^n.
    union { int32_t i; float f; } power = { ((int32_t)n + 127) << 23 };
    return p * power.f;
}

// A panel w (K, TILE) times `rows` rows: out[r][0..TILE) = sum over k of x[r][k] * w[k][0..TILE).
// It is inlined with a constant `rows`, so that the sums stay in registers.
// ahead: memory to fetch into the processor's cache on the way, or 0.
INLINE void panel_rows(int rows, const float *x, int64_t K, const float *w, const float *ahead,
                       float out[MAX_ROWS][TILE]) {
    vector s[MAX_ROWS][VECTORS] = {{{0}}};
    for (int64_t k = 0; k < K; k++, w += TILE) {
        if (ahead)
            for (int v = 0; v < VECTORS / 2; v++, ahead += WIDTH) __builtin_prefetch(ahead, 0, 2);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < VECTORS; v++) s[r][v] += x[r * K + k] * *(vector *)(w + v * WIDTH);
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < VECTORS; v++) *(vector *)(out[r] + v * WIDTH) = s[r][v];
}

// B rows are cut into groups of at most ROWS rows and of about the same size: 16 rows as 8 + 8,
// because 12 + 4 takes longer. Returns the row where group g begins, and group g - 1 ends.
INLINE int first_row(int B, int g) { return B * g / ((B + ROWS - 1) / ROWS); }

// Group g of x (B, K) times a panel. Returns the number of its rows.
// Where there are several groups, each of the first two fetches half of the next panel into the
// processor's cache. Otherwise the arithmetic would have to wait for it.
static int panel(int B, int g, const float *x, int64_t K, const float *w, const float *next,
                 float out[MAX_ROWS][TILE]) {
    const float *ahead = B > ROWS && g < 2 ? next + g * K * (TILE / 2) : 0;
    int b = first_row(B, g);
    int rows = first_row(B, g + 1) - b;
    x += b * K;
    #define CASE(n) \
        case n: \
            if (ahead) panel_rows(n, x, K, w, ahead, out); \
            else panel_rows(n, x, K, w, 0, out); \
            break;
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
    }
    return rows;
}

// 1 / rms of every row of x (B, K). Each thread computes them all: that is quicker than sharing the
// work and waiting for each other.
INLINE void make_scales(int B, const float *x, int64_t K, float *scales) {
    for (int b = 0; b < B; b++) scales[b] = inverse_rms(x + b * K, K);
}

// x (B, K) times a packed matrix -> out (B, N). The threads share the panels.
// norm: the rows of x are divided by their rms. add: the product is added to what is in out.
static void matmul(int B, const float *x, int64_t K, const float *w, int64_t N, int norm, int add,
                   float *out) {
    float y[MAX_ROWS][TILE], scales[B];
    if (norm) make_scales(B, x, K, scales);
    #pragma omp for schedule(static)
    for (int64_t n = 0; n < N; n += TILE)
        for (int g = 0, b = 0, rows; b < B; g++, b += rows) {
            rows = panel(B, g, x, K, w + n * K, w + (n + TILE) * K, y);
            for (int r = 0; r < rows; r++) {
                float scale = norm ? scales[b + r] : 1;
                float *to = out + (b + r) * N + n;
                // A whole panel is a constant number of outputs: the compiler unrolls the loop.
                if (N - n >= TILE)
                    for (int i = 0; i < TILE; i++) to[i] = (add ? to[i] : 0) + scale * y[r][i];
                else
                    for (int i = 0; i < N - n; i++) to[i] = (add ? to[i] : 0) + scale * y[r][i];
            }
        }
}

// hidden (B, F) = silu(gate) * up of x, normalised.
static void swiglu(const Model *m, int B, const float *w) {
    int64_t K = m->n_embd, F = m->n_ff;
    float gate[MAX_ROWS][TILE], up[MAX_ROWS][TILE], y[TILE], scales[B];
    make_scales(B, m->x, K, scales);
    #pragma omp for schedule(static)
    for (int64_t n = 0; n < F; n += TILE)
        for (int g = 0, b = 0, rows; b < B; g++, b += rows) {
            panel(B, g, m->x, K, w + 2 * n * K, w + (2 * n + 2 * TILE) * K, gate);
            rows = panel(B, g, m->x, K, w + (2 * n + TILE) * K, w + (2 * n + 3 * TILE) * K, up);
            for (int r = 0; r < rows; r++) {
                float scale = scales[b + r];
                for (int i = 0; i < TILE; i++) {
                    float g = scale * gate[r][i];
                    y[i] = g / (1 + exponential(-g)) * scale * up[r][i];
                }
                memcpy(m->hidden + (b + r) * F + n, y,
                       (F - n < TILE ? F - n : TILE) * sizeof(float));
            }
        }
}

// QK-norm, then the rotation of one head at its position.
INLINE void norm_rotate(const Model *m, float *head, int64_t position) {
    int64_t D = m->head_size, half = D / 2;
    const float *cos = m->cos + position * half, *sin = m->sin + position * half;
    float scale = inverse_rms(head, D);
    for (int64_t i = 0; i < half; i++) {
        float a = head[i] * scale, b = head[i + half] * scale;
        head[i] = a * cos[i] - b * sin[i];
        head[i + half] = b * cos[i] + a * sin[i];
    }
}

// Rotate the queries and keys of one token, and put its keys and values into the cache.
static void remember(const Model *m, int64_t layer, const Token *token, float *qkv) {
    int64_t D = m->head_size, H = m->n_head, G = m->n_kv_head;
    for (int64_t h = 0; h < H + G; h++) norm_rotate(m, qkv + h * D, token->position);
    float *slot = m->cache + (layer * m->cache_rows + token->row) * 2 * G * m->cache_size * D
                + token->position * D;
    for (int64_t h = 0; h < 2 * G; h++)
        memcpy(slot + h * m->cache_size * D, qkv + (H + h) * D, D * sizeof(float));
}

// One head of one token looks at all n positions of its sequence so far:
// y = softmax(q k / sqrt(D)) v. It is inlined with a constant D and a constant number of vectors
// of y, so that these stay in registers through all positions.
INLINE void attend_head(int D, int vectors, int64_t n, const float *q, const float *keys,
                        const float *values, float *y, float *scores) {
    float scale = 1 / sqrtf(D);
    float largest = -1e30f;
    for (int64_t t = 0; t < n; t++) {
        scores[t] = dot(q, keys + t * D, D) * scale;
        largest = fmaxf(largest, scores[t]);
    }
    float total = 0;
    #pragma omp simd reduction(+:total)
    for (int64_t t = 0; t < n; t++) {
        scores[t] = exponential(scores[t] - largest);
        total += scores[t];
    }
    for (int64_t i = 0; i < D; i += vectors * WIDTH) {
        vector s[8] = {{0}};
        for (int64_t t = 0; t < n; t++)
            for (int v = 0; v < vectors; v++)
                s[v] += scores[t] * *(vector *)(values + t * D + i + v * WIDTH);
        for (int v = 0; v < vectors; v++) *(vector *)(y + i + v * WIDTH) = s[v] / total;
    }
}

static void attend(const Model *m, int64_t layer, const Token *token, int64_t h, const float *q,
                   float *y, float *scores) {
    int64_t D = m->head_size, G = m->n_kv_head;
    // Which head of keys and values this head of queries shares.
    int64_t group = h / (m->n_head / G);
    int64_t n = token->position + 1;
    const float *keys = m->cache
        + ((layer * m->cache_rows + token->row) * 2 * G + group) * m->cache_size * D;
    const float *values = keys + G * m->cache_size * D;
    if (D == 128) attend_head(128, WIDTH == 16 ? 8 : 4, n, q, keys, values, y, scores);
    else if (D == 64) attend_head(64, 4, n, q, keys, values, y, scores);
    else attend_head(D, 2, n, q, keys, values, y, scores);
}

// Where the largest of x[0..n) is, the first one if there are several. First find the block of 64
// that holds it: the maximum of a block takes only a few vector instructions.
static int64_t argmax(const float *x, int64_t n) {
    int64_t block = 0;
    float largest = x[0];
    for (int64_t i = 0; i < n; i += 64) {
        float y = x[i];
        #pragma omp simd reduction(max:y)
        for (int64_t j = i; j < (i + 64 < n ? i + 64 : n); j++) y = fmaxf(y, x[j]);
        if (y > largest) {
            largest = y;
            block = i;
        }
    }
    while (x[block] != largest) block++;
    return block;
}

// N tokens of any number of sequences through the model -> logits (n_wanted, V) of the tokens with
// the indices `wanted`. The tokens of one sequence come in order and without a gap: each one sees
// what the cache holds up to its own position.
//
// With likeliest (n_wanted), mask (n_wanted, n_mask) is added to the last n_mask logits of each
// token, and likeliest gets the id of the largest logit.
void decode(const Model *m, int64_t N, const Token *tokens, int64_t n_wanted, const int64_t *wanted,
            float *logits, int64_t n_mask, const float *mask, int64_t *likeliest, int64_t threads) {
    int64_t C = m->n_embd, H = m->n_head, D = m->head_size;
    int64_t width = (H + 2 * m->n_kv_head) * D;
    #pragma omp parallel num_threads(threads)
    {
        int64_t thread = 0;
        #ifdef _OPENMP
        thread = omp_get_thread_num();
        #endif
        #pragma omp for schedule(static)
        for (int64_t i = 0; i < N; i++)
            memcpy(m->x + i * C, m->embed + tokens[i].id * C, C * sizeof(float));
        for (int64_t layer = 0; layer < m->n_layer; layer++) {
            matmul(N, m->x, C, m->wqkv[layer], width, 1, 0, m->qkv);
            #pragma omp for schedule(static)
            for (int64_t i = 0; i < N; i++) remember(m, layer, tokens + i, m->qkv + i * width);
            // The heads of a token take equally long, so dealing them out one by one makes the
            // threads' shares even.
            #pragma omp for schedule(static, 1)
            for (int64_t i = 0; i < N * H; i++)
                attend(m, layer, tokens + i / H, i % H, m->qkv + i / H * width + i % H * D,
                       m->y + i * D, m->scores + thread * m->max_size);
            matmul(N, m->y, H * D, m->wo[layer], C, 0, 1, m->x);
            swiglu(m, N, m->gate_up[layer]);
            matmul(N, m->hidden, m->n_ff, m->down[layer], C, 0, 1, m->x);
        }
        #pragma omp for schedule(static)
        for (int64_t i = 0; i < n_wanted; i++)
            memcpy(m->y + i * C, m->x + wanted[i] * C, C * sizeof(float));
        matmul(n_wanted, m->y, C, m->head, m->vocab_size, 1, 0, logits);
        #pragma omp for schedule(static)
        for (int64_t i = 0; i < (likeliest ? n_wanted : 0); i++) {
            float *row = logits + i * m->vocab_size;
            for (int64_t j = 0; j < n_mask; j++)
                row[m->vocab_size - n_mask + j] += mask[i * n_mask + j];
            likeliest[i] = argmax(row, m->vocab_size);
        }
    }
}
