#define IMMEDIATE
#include "attention.h"

#ifdef MPT_LEVEL_AMX

/* The compiler does not know that tile instructions read and write memory. */
#define MEMORY_FENCE() __asm__ volatile("" ::: "memory")

void attention_tiles_begin(void)
{
    static const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config __attribute__((aligned(64))) = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&config);
}

void attention_tiles_end(void)
{
    _tile_release();
}

/* ---- products ----------------------------------------------------------------------------------- */

/* Tiles 0 1 / 2 3 are a 2 x 2 block of c; 4, 5 the left operand's two rows; 6, 7 the right one's two columns. */
#define LOAD_LEFT(from, stride)                                                                    \
    _tile_loadd(4, from, 64);                                                                      \
    _tile_loadd(5, (from) + (stride), 64)
#define LOAD_RIGHT(from, stride)                                                                   \
    _tile_loadd(6, from, 64);                                                                      \
    _tile_loadd(7, (from) + (stride), 64)
#define MULTIPLY()                                                                                 \
    _tile_dpbf16ps(0, 4, 6);                                                                       \
    _tile_dpbf16ps(1, 4, 7);                                                                       \
    _tile_dpbf16ps(2, 5, 6);                                                                       \
    _tile_dpbf16ps(3, 5, 7)

VEC_INLINE void load_sums(const attention_product_t *now)
{
    if (now->accumulate) {
        _tile_loadd(0, now->c, now->ld * 4);
        _tile_loadd(1, now->c + 16, now->ld * 4);
        _tile_loadd(2, now->c + 16 * now->ld, now->ld * 4);
        _tile_loadd(3, now->c + 16 * now->ld + 16, now->ld * 4);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
}

VEC_INLINE void save_sums(const attention_product_t *now)
{
    _tile_stored(0, now->c, now->ld * 4);
    _tile_stored(1, now->c + 16, now->ld * 4);
    _tile_stored(2, now->c + 16 * now->ld, now->ld * 4);
    _tile_stored(3, now->c + 16 * now->ld + 16, now->ld * 4);
}

/* 32 of the contraction. With two planes: high x low, high x high, low x high. */
VEC_INLINE void multiply_step(const attention_operand_t *left, const attention_operand_t *right,
                              const int planes)
{
    const char *a = left->data, *b = right->data;
    LOAD_LEFT(a, left->outer);
    if (planes == 2) {
        LOAD_RIGHT(b + right->plane, right->outer);
        MULTIPLY();
    }
    LOAD_RIGHT(b, right->outer);
    MULTIPLY();
    if (planes == 2) {
        LOAD_LEFT(a + left->plane, left->outer);
        MULTIPLY();
    }
}

/* Begin the next product, if there is one. */
VEC_INLINE int begin_product(attention_queue_t *queue)
{
    const int lane = queue->done[ATTENTION_NEXT] < queue->added[ATTENTION_NEXT] ? ATTENTION_NEXT
                                                                                : ATTENTION_LATER;
    if (queue->done[lane] == queue->added[lane])
        return 0;
    queue->now = queue->ring[lane][queue->done[lane] % ATTENTION_QUEUE];
    queue->lane = lane;
    load_sums(&queue->now);
    return 1;
}

/* One piece of the queued products: a step of 32, or the storing of sums. Returns 0 where nothing is left to do. */
VEC_INLINE int run_piece(attention_queue_t *queue, const int planes)
{
    attention_product_t *now = &queue->now;
    if (queue->unsaved && now->steps == 0) {
        save_sums(now);
        queue->unsaved = 0;
        queue->done[queue->lane]++;
        return 1;
    }
    if (!queue->unsaved && !begin_product(queue))
        return 0;
    queue->unsaved = 1;
    multiply_step(&now->left, &now->right, planes);
    now->left.data += now->left.inner;
    now->right.data += now->right.inner;
    now->steps--;
    return 1;
}

static void run_piece_of(attention_queue_t *queue)
{
    if (queue->shape->planes == 1)
        run_piece(queue, 1);
    else
        run_piece(queue, 2);
}

void attention_tiles_wait(attention_queue_t *queue, attention_lane_t lane, uint64_t count)
{
    MEMORY_FENCE();
    while (queue->done[lane] < count)
        run_piece_of(queue);
    MEMORY_FENCE();
}

void attention_tiles_product(attention_queue_t *queue, attention_lane_t lane, float *c, int64_t ld,
                             int64_t rows, int64_t columns, attention_operand_t left,
                             attention_operand_t right, int64_t depth, int accumulate)
{
    for (int64_t j = 0; j < columns; j += 32)
        for (int64_t i = 0; i < rows; i += 32) {
            if (queue->added[lane] - queue->done[lane] == ATTENTION_QUEUE)
                attention_tiles_wait(queue, lane, queue->done[lane] + 1);
            queue->ring[lane][queue->added[lane]++ % ATTENTION_QUEUE] = (attention_product_t){
                .c = c + i * ld + j,
                .ld = ld,
                .steps = depth / 32,
                .accumulate = accumulate,
                .left = attention_at(queue->shape, left, i, 0),
                .right = attention_at(queue->shape, right, j, 0)};
#ifdef IMMEDIATE
 attention_tiles_wait(queue,lane,queue->added[lane]);
#endif

        }
}

/* ---- softmax ------------------------------------------------------------------------------------ */

/* Two vectors rounded to bf16, `low` in the lower half. */
VEC_INLINE __m512i to_bf16_pair(vec_t low, vec_t high)
{
    return (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
}

/* What rounding to bf16 leaves of two vectors, given their rounded pair. */
VEC_INLINE __m512i rest_pair(vec_t low, vec_t high, __m512i pair)
{
    const vec_u16_t low_term = (vec_u16_t)_mm512_castsi512_si256(pair);
    const vec_u16_t high_term = (vec_u16_t)_mm512_extracti64x4_epi64(pair, 1);
    return to_bf16_pair(low - vec_from_bf16(low_term), high - vec_from_bf16(high_term));
}

/* Two vectors rounded to compute, as the bf16 terms of a row of 32. */
VEC_INLINE void split_pair(vec_t low, vec_t high, const int planes, __m512i term[2])
{
    if (planes == 2) {
        low = vec_round(low, MPT_F16);
        high = vec_round(high, MPT_F16);
    }
    term[0] = to_bf16_pair(low, high);
    if (planes == 2)
        term[1] = rest_pair(low, high, term[0]);
}

/* Two keys' rows of 32 probabilities, side by side by pairs of keys. */
VEC_INLINE void pair_probabilities(const float *scores, int64_t ld, vec_t c,
                                   const vec_t minus_base[2], vec_t sum[2], __m512i zip,
                                   const attention_operand_t *to, const int planes)
{
    vec_t p[4]; /* even key, odd key; then the next 16 columns */
    for (int i = 0; i < 4; i++)
        p[i] = vec_fma(vec_load_f32(scores + i % 2 * ld + i / 2 * 16, 16), c, minus_base[i / 2]);
    attention_exp2_of(p, 4);
    for (int i = 0; i < 4; i++)
        sum[i / 2] += p[i];
    for (int i = 0; i < 2; i++) {
        __m512i term[2];
        split_pair(p[2 * i], p[2 * i + 1], planes, term);
        for (int plane = 0; plane < planes; plane++)
            _mm512_store_si512(to->data + i * to->outer + plane * to->plane,
                               _mm512_permutexvar_epi16(zip, term[plane]));
    }
}

VEC_INLINE void probabilities_as(attention_queue_t *queue, const float *scores, int64_t keys,
                                 int64_t columns, float c, const float *base, float *sum,
                                 attention_operand_t probs, const int planes)
{
    /* words 0 16 1 17 ...: keys k and k + 1 side by side for each query */
    const __m512i zip = _mm512_add_epi32(_mm512_set1_epi32(0x00100000),
                                         _mm512_mullo_epi32((__m512i)attention_lane_numbers(),
                                                            _mm512_set1_epi32(0x00010001)));
    const vec_t by = attention_splat(c);
    for (int64_t q = 0; q < columns; q += 32) {
        const vec_t minus_base[2] = {-vec_load_f32(base + q, 16), -vec_load_f32(base + q + 16, 16)};
        vec_t total[2] = {vec_load_f32(sum + q, 16), vec_load_f32(sum + q + 16, 16)};
        for (int64_t k = 0; k < keys; k += 2) {
            attention_operand_t to = probs;
            to.data += q / 16 * probs.outer + k / 32 * probs.inner + k % 32 * 32;
            pair_probabilities(scores + k * columns + q, columns, by, minus_base, total, zip, &to,
                               planes);
            MEMORY_FENCE();
            run_piece(queue, planes);
        }
        vec_store_f32(sum + q, 16, total[0]);
        vec_store_f32(sum + q + 16, 16, total[1]);
    }
}

void attention_tiles_probabilities(attention_queue_t *queue, const float *scores, int64_t keys,
                                   int64_t columns, float c, const float *base, float *sum,
                                   attention_operand_t probs)
{
    if (queue->shape->planes == 1)
        probabilities_as(queue, scores, keys, columns, c, base, sum, probs, 1);
    else
        probabilities_as(queue, scores, keys, columns, c, base, sum, probs, 2);
    MEMORY_FENCE();
}

/* What the 32 columns of a square share, in registers. */
typedef struct square {
    const float *scores, *dprobs;
    int64_t ld;
    vec_t c, scale, minus_lse[2], minus_delta[2];
} square_t;

/* Two keys' rows of P and dS in a square, from `key` on, as bf16 terms. */
VEC_INLINE void square_rows(const square_t *square, int64_t key, const int planes, const int masked,
                            __m512i probs[2][2], __m512i dscores[2][2])
{
    vec_t p[4], g[4]; /* columns 0 and 16 of one key, then of the next */
    const int64_t at = key * square->ld;
    for (int i = 0; i < 4; i++) {
        const int64_t place = at + i / 2 * square->ld + i % 2 * 16;
        p[i] = vec_fma(vec_load_f32(square->scores + place, 16), square->c,
                       square->minus_lse[i % 2]);
        g[i] = vec_fma(vec_load_f32(square->dprobs + place, 16), square->scale,
                       square->minus_delta[i % 2]);
        p[i] = vec_min(vec_set(128), p[i]);
    }
    attention_exp2_of(p, 4);
    for (int i = 0; i < 4; i++) {
        g[i] *= p[i];
        if (masked) {
            const vec_i32_t visible =
                attention_lane_numbers() + i % 2 * 16 >= (int32_t)key + i / 2;
            p[i] = vec_select(visible, p[i], vec_set(0));
            g[i] = vec_select(visible, g[i], vec_set(0));
        }
    }
    for (int i = 0; i < 2; i++) {
        split_pair(p[2 * i], p[2 * i + 1], planes, probs[i]);
        split_pair(g[2 * i], g[2 * i + 1], planes, dscores[i]);
    }
}

/* Rows key and key + 1 into the operands, which start at this square. */
VEC_INLINE void store_pair(char *probs, char *dscores, char *dscores_right,
                           const attention_strip_t *strip, __m512i p[2][2], __m512i g[2][2],
                           const int planes)
{
    const int64_t right = strip->dscores_right.outer;
    for (int plane = 0; plane < planes; plane++) {
        for (int i = 0; i < 2; i++) {
            _mm512_store_si512(probs + 64 * i, p[i][plane]);
            _mm512_store_si512(dscores + 64 * i, g[i][plane]);
        }
        _mm512_store_si512(dscores_right, _mm512_unpacklo_epi16(g[0][plane], g[1][plane]));
        _mm512_store_si512(dscores_right + right, _mm512_unpackhi_epi16(g[0][plane], g[1][plane]));
        probs += strip->probs.plane;
        dscores += strip->dscores.plane;
        dscores_right += strip->dscores_right.plane;
    }
}

VEC_INLINE void square_gradients(attention_queue_t *queue, attention_strip_t strip, int64_t first,
                                 const int planes, const int masked)
{
    square_t square = {.scores = strip.scores + first,
                       .dprobs = strip.dprobs + first,
                       .ld = strip.ld,
                       .c = attention_splat(strip.scale * ATTENTION_LOG2_E),
                       .scale = attention_splat(strip.scale)};
    for (int i = 0; i < 2; i++) {
        square.minus_lse[i] = vec_load_f32(strip.minus_lse + first + 16 * i, 16);
        square.minus_delta[i] = -vec_load_f32(strip.delta + first + 16 * i, 16);
    }
    char *probs = strip.probs.data + first / 32 * strip.probs.inner;
    char *dscores = strip.dscores.data + first / 32 * strip.dscores.inner;
    char *right = strip.dscores_right.data + first / 16 * strip.dscores_right.outer;
    for (int64_t key = 0; key < 32; key += 2) {
        const int64_t row = key / 16 * strip.probs.outer + key % 16 * 64;
        __m512i p[2][2], g[2][2];
        square_rows(&square, key, planes, masked, p, g);
        store_pair(probs + row, dscores + row, right + key * 32, &strip, p, g, planes);
        MEMORY_FENCE();
        run_piece(queue, planes);
    }
}

VEC_INLINE void gradients_as(attention_queue_t *queue, const attention_strip_t *strip,
                             const int planes)
{
    for (int64_t q = 0; q < strip->columns; q += 32) {
        if (strip->diagonal && q == 0)
            square_gradients(queue, *strip, q, planes, 1);
        else
            square_gradients(queue, *strip, q, planes, 0);
    }
}

void attention_tiles_gradients(attention_queue_t *queue, const attention_strip_t *strip)
{
    if (queue->shape->planes == 1)
        gradients_as(queue, strip, 1);
    else
        gradients_as(queue, strip, 2);
    MEMORY_FENCE();
}

#endif
