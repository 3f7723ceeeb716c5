// decode.c as a program, so that an emulator can run it for a processor that this machine is not.
// Without arguments: print the panel width and the vector width. With IN OUT: read a Model and the
// arguments of decode() as test_decode_arm.py writes them, and write what decode() has changed.
#include <stdio.h>
#include <stdlib.h>
#include "../talk/decode.c"

static FILE *in;

static void read_all(void *to, size_t size, size_t n) {
    if (fread(to, size, n, in) != n) exit(1);
}

static float *read_floats(int64_t *n) {
    read_all(n, 8, 1);
    float *floats = malloc(4 * *n + 64);
    read_all(floats, 4, *n);
    return floats;
}

static const float **read_layers(int64_t n_layer) {
    int64_t n;
    const float **layers = malloc(n_layer * sizeof(float *));
    for (int64_t i = 0; i < n_layer; i++) layers[i] = read_floats(&n);
    return layers;
}

static float *scratch(int64_t n) { return malloc(4 * n + 64); }

int main(int argc, char **argv) {
    if (argc < 3) return printf("%d %d\n", tile(), width()) < 0;
    in = fopen(argv[1], "rb");
    Model m;
    int64_t n, cache, N, n_wanted, n_mask, has_likeliest, threads;
    read_all(&m, 8, 10);
    m.embed = read_floats(&n);
    m.head = read_floats(&n);
    m.cos = read_floats(&n);
    m.sin = read_floats(&n);
    m.wqkv = read_layers(m.n_layer);
    m.wo = read_layers(m.n_layer);
    m.gate_up = read_layers(m.n_layer);
    m.down = read_layers(m.n_layer);
    m.cache = read_floats(&cache);
    read_all(&N, 8, 1);
    read_all(&n_wanted, 8, 1);
    read_all(&has_likeliest, 8, 1);
    read_all(&threads, 8, 1);
    Token *tokens = malloc(N * sizeof(Token));
    int64_t *wanted = malloc(8 * n_wanted + 8), *likeliest = malloc(8 * n_wanted + 8);
    read_all(tokens, sizeof(Token), N);
    read_all(wanted, 8, n_wanted);
    float *mask = read_floats(&n_mask), *logits = scratch(n_wanted * m.vocab_size);
    if (has_likeliest) n_mask /= n_wanted;
    m.x = scratch(N * m.n_embd);
    m.qkv = scratch(N * (m.n_head + 2 * m.n_kv_head) * m.head_size);
    m.y = scratch(N * m.n_embd);
    m.hidden = scratch(N * m.n_ff);
    m.scores = scratch(threads * m.max_size);
    decode(&m, N, tokens, n_wanted, wanted, logits, n_mask, mask, has_likeliest ? likeliest : 0,
           threads);
    FILE *out = fopen(argv[2], "wb");
    fwrite(m.cache, 4, cache, out);
    fwrite(logits, 4, n_wanted * m.vocab_size, out);
    if (has_likeliest) fwrite(likeliest, 8, n_wanted, out);
    return fclose(out) != 0;
}
