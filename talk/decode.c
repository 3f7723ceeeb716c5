// Tokens of any number of texts through the whole model on a CPU, in float32, keys and values of earlier ones cached.
//
// The same arithmetic as Decoder.compute in decode.py (a test compares them). What it saves is everything around the
// arithmetic: some 20 calls into PyTorch a layer, which for a single text cost more than reading the weights. decode.py
// compiles it once with the machine's C compiler and calls it through ctypes; where there is none, PyTorch does it all.
//
// A weight matrix (K inputs, N outputs) is packed in panels: TILE outputs side by side, all inputs below each other, so
// that a panel streams through the vector unit in one piece: packed[N / TILE][K][TILE]. Zeros fill up the last panel.
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

// floats in a vector; vectors in a panel's row; tokens at a time: ROWS * VECTORS sums just stay in registers
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
    int64_t n_layer, n_embd, n_head, n_kv_head, head_size, n_ff, vocab_size, max_size, cache_rows, cache_size;
    const float *embed, *head, *cos, *sin;      // embed (V, C) normalised, head packed, cos and sin (positions, D / 2)
    const float **wqkv, **wo, **gate_up, **down;        // packed, a pointer a layer; gate_up: panels of both take turns
    float *cache;                               // (n_layer, cache_rows, 2 Hkv, cache_size, D): keys, then values
    float *x, *qkv, *y, *hidden, *scores;  // room for (N, C), (N, (H + 2 Hkv) D), (N, H D), (N, F), (threads, max_size)
} Model;

typedef struct { int64_t id, row, position; } Token;            // position `position` of the text in cache row `row`

int tile(void) { return TILE; }
int width(void) { return WIDTH; }

// Ask for pages of 2 MB instead of 4 KB: fewer addresses to look up. Only ever a hint.
void use_huge_pages(char *start, int64_t bytes) {
    #ifdef MADV_HUGEPAGE
    char *first = (char *)(((uintptr_t)start + 4095) & ~(uintptr_t)4095);
    if (start + bytes > first) madvise(first, start + bytes - first, MADV_HUGEPAGE);
    #endif
}

INLINE float dot(const float *a, const float *b, int64_t n) {
    float s = 0;
    #pragma omp simd reduction(+:s)             // many partial sums: otherwise one addition would wait for the other
    for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

INLINE float inverse_rms(const float *x, int64_t n) { return 1.0f / sqrtf(dot(x, x, n) / n + 1e-6f); }

// e^x as 2^n e^f with |f| <= ln(2) / 2; Taylor's polynomial for e^f, relative error below 3e-7. Loops of it vectorise.
INLINE float exponential(float x) {
    float t = fmaxf(x, -87.0f) * 1.44269504f, n = floorf(t + 0.5f), f = (t - n) * 0.693147181f;
    float p = 1 + f * (1 + f * (1 / 2.f + f * (1 / 6.f + f * (1 / 24.f + f * (1 / 120.f + f * (1 / 720.f))))));
    union { int32_t i; float f; } power = { ((int32_t)n + 127) << 23 };
    return p * power.f;
}

// One panel times `rows` rows: out[r][0..TILE) = sum over k of x[r][k] * w[k][0..TILE). Once inlined, rows is constant.
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

// B rows are cut into groups of at most ROWS and of about the same size: 16 as 8 + 8, because 12 + 4 takes longer. Here
// begins group g, and group g - 1 ends.
INLINE int first_row(int B, int g) { return B * g / ((B + ROWS - 1) / ROWS); }

// Group g of x (B, K) times a panel. Where there are several groups, the first two each fetch half of the next panel;
// else that would be memory's turn while the arithmetic waits. -> number of rows
static int panel(int B, int g, const float *x, int64_t K, const float *w, const float *next,
                 float out[MAX_ROWS][TILE]) {
    const float *ahead = B > ROWS && g < 2 ? next + g * K * (TILE / 2) : 0;
    int b = first_row(B, g), rows = first_row(B, g + 1) - b;
    x += b * K;
    #define CASE(n) case n: if (ahead) panel_rows(n, x, K, w, ahead, out); else panel_rows(n, x, K, w, 0, out); break;
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
    }
    return rows;
}

// 1 / rms of every row of x (B, K). Each thread makes its own: that is quicker than to share the work and wait.
INLINE void make_scales(int B, const float *x, int64_t K, float *scales) {
    for (int b = 0; b < B; b++) scales[b] = inverse_rms(x + b * K, K);
}

// out (B, N) = or += x (B, K) times a packed matrix, rows of x divided by their rms if `norm`. Threads share panels.
static void matmul(int B, const float *x, int64_t K, const float *w, int64_t N, int norm, int add, float *out) {
    float y[MAX_ROWS][TILE], scales[B];
    if (norm) make_scales(B, x, K, scales);
    #pragma omp for schedule(static)
    for (int64_t n = 0; n < N; n += TILE)
        for (int g = 0, b = 0, rows; b < B; g++, b += rows) {
            rows = panel(B, g, x, K, w + n * K, w + (n + TILE) * K, y);
            for (int r = 0; r < rows; r++) {
                float scale = norm ? scales[b + r] : 1, *to = out + (b + r) * N + n;
                if (N - n >= TILE)                              // a constant number of times, so that no loop is left
                    for (int i = 0; i < TILE; i++) to[i] = (add ? to[i] : 0) + scale * y[r][i];
                else
                    for (int i = 0; i < N - n; i++) to[i] = (add ? to[i] : 0) + scale * y[r][i];
            }
        }
}

// hidden (B, F) = silu(gate) * up of the normalised x
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
                memcpy(m->hidden + (b + r) * F + n, y, (F - n < TILE ? F - n : TILE) * sizeof(float));
            }
        }
}

// QK-norm and rotation of one head at its position
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

// Rotate the queries and keys of one token; its keys and values go into the cache.
static void remember(const Model *m, int64_t layer, const Token *token, float *qkv) {
    int64_t D = m->head_size, H = m->n_head, G = m->n_kv_head;
    for (int64_t h = 0; h < H + G; h++) norm_rotate(m, qkv + h * D, token->position);
    float *slot = m->cache + (layer * m->cache_rows + token->row) * 2 * G * m->cache_size * D + token->position * D;
    for (int64_t h = 0; h < 2 * G; h++) memcpy(slot + h * m->cache_size * D, qkv + (H + h) * D, D * sizeof(float));
}

// One head of one token looks at all n positions of its text so far: y = softmax(q k / sqrt(D)) v. Once inlined, D is
// constant, and so is the number of vectors of y that stay in registers through all positions.
INLINE void attend_head(int D, int vectors, int64_t n, const float *q, const float *keys, const float *values, float *y,
                        float *scores) {
    float largest = -1e30f, total = 0, scale = 1 / sqrtf(D);
    for (int64_t t = 0; t < n; t++) {
        scores[t] = dot(q, keys + t * D, D) * scale;
        largest = fmaxf(largest, scores[t]);
    }
    #pragma omp simd reduction(+:total)
    for (int64_t t = 0; t < n; t++) total += scores[t] = exponential(scores[t] - largest);
    for (int64_t i = 0; i < D; i += vectors * WIDTH) {
        vector s[8] = {{0}};
        for (int64_t t = 0; t < n; t++)
            for (int v = 0; v < vectors; v++) s[v] += scores[t] * *(vector *)(values + t * D + i + v * WIDTH);
        for (int v = 0; v < vectors; v++) *(vector *)(y + i + v * WIDTH) = s[v] / total;
    }
}

static void attend(const Model *m, int64_t layer, const Token *token, int64_t h, const float *q, float *y,
                   float *scores) {
    int64_t D = m->head_size, G = m->n_kv_head, group = h / (m->n_head / G), n = token->position + 1;
    const float *keys = m->cache + ((layer * m->cache_rows + token->row) * 2 * G + group) * m->cache_size * D;
    const float *values = keys + G * m->cache_size * D;
    if (D == 128) attend_head(128, WIDTH == 16 ? 8 : 4, n, q, keys, values, y, scores);
    else if (D == 64) attend_head(64, 4, n, q, keys, values, y, scores);
    else attend_head(D, 2, n, q, keys, values, y, scores);
}

// Where the first of the largest of x[0..n) is, found through the largest of each 64: those are a few vectors.
static int64_t argmax(const float *x, int64_t n) {
    int64_t block = 0;
    float largest = x[0];
    for (int64_t i = 0; i < n; i += 64) {
        float y = x[i];
        #pragma omp simd reduction(max:y)
        for (int64_t j = i; j < (i + 64 < n ? i + 64 : n); j++) y = fmaxf(y, x[j]);
        if (y > largest) largest = y, block = i;
    }
    while (x[block] != largest) block++;
    return block;
}

// N tokens, of as many texts as you like, through the model -> logits (n_wanted, V) of those with the indices `wanted`.
// The tokens of one text come in order and without a gap: a token looks at what the cache holds up to its own position.
// With likeliest (n_wanted), mask (n_wanted, n_mask) is added to the last logits of each and the largest are looked up.
void decode(const Model *m, int64_t N, const Token *tokens, int64_t n_wanted, const int64_t *wanted, float *logits,
            int64_t n_mask, const float *mask, int64_t *likeliest, int64_t threads) {
    int64_t C = m->n_embd, H = m->n_head, D = m->head_size, width = (H + 2 * m->n_kv_head) * D;
    #pragma omp parallel num_threads(threads)
    {
        int64_t thread = 0;
        #ifdef _OPENMP
        thread = omp_get_thread_num();
        #endif
        #pragma omp for schedule(static)
        for (int64_t i = 0; i < N; i++) memcpy(m->x + i * C, m->embed + tokens[i].id * C, C * sizeof(float));
        for (int64_t layer = 0; layer < m->n_layer; layer++) {
            matmul(N, m->x, C, m->wqkv[layer], width, 1, 0, m->qkv);
            #pragma omp for schedule(static)
            for (int64_t i = 0; i < N; i++) remember(m, layer, tokens + i, m->qkv + i * width);
            #pragma omp for schedule(static, 1)            // neighbours take about as long: the shares come out even
            for (int64_t i = 0; i < N * H; i++)
                attend(m, layer, tokens + i / H, i % H, m->qkv + i / H * width + i % H * D, m->y + i * D,
                       m->scores + thread * m->max_size);
            matmul(N, m->y, H * D, m->wo[layer], C, 0, 1, m->x);
            swiglu(m, N, m->gate_up[layer]);
            matmul(N, m->hidden, m->n_ff, m->down[layer], C, 0, 1, m->x);
        }
        #pragma omp for schedule(static)
        for (int64_t i = 0; i < n_wanted; i++) memcpy(m->y + i * C, m->x + wanted[i] * C, C * sizeof(float));
        matmul(n_wanted, m->y, C, m->head, m->vocab_size, 1, 0, logits);
        #pragma omp for schedule(static)
        for (int64_t i = 0; i < (likeliest ? n_wanted : 0); i++) {
            float *row = logits + i * m->vocab_size;
            for (int64_t j = 0; j < n_mask; j++) row[m->vocab_size - n_mask + j] += mask[i * n_mask + j];
            likeliest[i] = argmax(row, m->vocab_size);
        }
    }
}
