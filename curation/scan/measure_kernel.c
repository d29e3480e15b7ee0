/* The sums of measurements.py, of an image without a mask: 16 pixels at a time, in 16 bits where they fit. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { TINT = 3, NEAR = 2, GENTLE = 8, BLOCK = 4, CELLS = 50, PAD = 32 };

/* Sums as in measurements.Sums: two places of 16 pixels, one sum of their products, 32 bits a lane. */
enum { BLACK = 1, WHITE, FLAT, COLOURED, RG, RR = 9, GENTLY = 15, PIXELS };
enum { LIGHT_STEPS = PIXELS, COLOUR_STEPS, FINE_STEPS, FINE_TURNS };
enum { FULL = 8192 };  /* steps of 16 pixels that add up to less than 2^31: 2 * 255 * 255 each */

#ifdef __x86_64__
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))

struct scratch {
    int16_t *upper[3], *lower[3];     /* red, green, blue of a row and of the one below it, (width + PAD) */
    int32_t *halves[2][3], *light[2]; /* of two rows of half blocks their sums, and luma, (2 * across + PAD) */
    int32_t *blocks[4];               /* sums of blocks and their luma, (across + PAD) */
};

struct sums {
    __m256i products[GENTLY], counts[GENTLY + 1];  /* of 32 and of 16 bits */
    long steps;
};

/* Every third byte of 24, from their first and their last 16, as 16 bits. */
AVX2 static inline __m128i every_third(__m128i first, __m128i second, __m128i from_first, __m128i from_second) {
    return _mm_or_si128(_mm_shuffle_epi8(first, from_first), _mm_shuffle_epi8(second, from_second));
}

/* A row of RGB as planes. */
AVX2 static void spread(const uint8_t *rgb, long width, int16_t *const *planes) {
    const __m128i red = _mm_setr_epi8(0, -1, 3, -1, 6, -1, 9, -1, 12, -1, 15, -1, -1, -1, -1, -1);
    const __m128i red_too = _mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 10, -1, 13, -1);
    const __m128i green = _mm_setr_epi8(1, -1, 4, -1, 7, -1, 10, -1, 13, -1, -1, -1, -1, -1, -1, -1);
    const __m128i green_too = _mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 8, -1, 11, -1, 14, -1);
    const __m128i blue = _mm_setr_epi8(2, -1, 5, -1, 8, -1, 11, -1, 14, -1, -1, -1, -1, -1, -1, -1);
    const __m128i blue_too = _mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 9, -1, 12, -1, 15, -1);
    long x = 0;
    for (; x + 8 <= width; x += 8) {
        __m128i first = _mm_loadu_si128((const __m128i *)(rgb + 3 * x));
        __m128i second = _mm_loadu_si128((const __m128i *)(rgb + 3 * x + 8));
        _mm_storeu_si128((__m128i *)(planes[0] + x), every_third(first, second, red, red_too));
        _mm_storeu_si128((__m128i *)(planes[1] + x), every_third(first, second, green, green_too));
        _mm_storeu_si128((__m128i *)(planes[2] + x), every_third(first, second, blue, blue_too));
    }
    for (; x < width; x++)
        for (int k = 0; k < 3; k++) planes[k][x] = rgb[3 * x + k];
}

AVX2 static inline __m256i at(const int16_t *plane, long x) {
    return _mm256_loadu_si256((const __m256i *)(plane + x));
}

AVX2 static inline __m256i larger(__m256i one, __m256i other) {
    return _mm256_max_epi16(_mm256_abs_epi16(one), _mm256_abs_epi16(other));
}

AVX2 static inline void multiply(struct sums *sums, int which, __m256i one, __m256i other) {
    sums->products[which] = _mm256_add_epi32(sums->products[which], _mm256_madd_epi16(one, other));
}

AVX2 static inline void count(struct sums *sums, int which, __m256i those) {
    sums->counts[which] = _mm256_sub_epi16(sums->counts[which], those);
}

/* Sixteen pixels, of which those inside count. */
AVX2 static inline void add(const struct scratch *rows, long x, __m256i inside, struct sums *sums) {
    const __m256i zero = _mm256_setzero_si256(), ones = _mm256_set1_epi16(1);
    __m256i c[3], d[3], step = zero;
    for (int k = 0; k < 3; k++) {
        c[k] = at(rows->upper[k], x);
        d[k] = _mm256_and_si256(_mm256_sub_epi16(at(rows->upper[k], x + 1), c[k]), inside);
        __m256i down = _mm256_and_si256(_mm256_sub_epi16(at(rows->lower[k], x), c[k]), inside);
        step = _mm256_max_epi16(step, larger(d[k], down));
    }
    for (int k = 0; k < 3; k++) {
        multiply(sums, RR + k, d[k], d[k]);
        multiply(sums, RR + 3 + k, d[k == 2 ? 0 : k], d[k == 2 ? 2 : k + 1]);
    }
    __m256i low = _mm256_min_epi16(c[0], _mm256_min_epi16(c[1], c[2]));
    __m256i high = _mm256_max_epi16(c[0], _mm256_max_epi16(c[1], c[2]));
    __m256i still = _mm256_cmpeq_epi16(step, zero), same = _mm256_and_si256(still, inside);
    count(sums, FLAT, same);
    count(sums, GENTLY, _mm256_andnot_si256(still, _mm256_cmpgt_epi16(_mm256_set1_epi16(GENTLE + 1), step)));
    count(sums, BLACK, _mm256_and_si256(same, _mm256_cmpgt_epi16(_mm256_set1_epi16(NEAR + 1), high)));
    count(sums, WHITE, _mm256_and_si256(same, _mm256_cmpgt_epi16(low, _mm256_set1_epi16(254 - NEAR))));
    __m256i coloured = _mm256_cmpgt_epi16(_mm256_sub_epi16(high, low), _mm256_set1_epi16(TINT));
    count(sums, COLOURED, _mm256_and_si256(coloured, inside));
    __m256i sum = _mm256_add_epi16(c[0], c[1]), twice = _mm256_add_epi16(c[2], c[2]);
    __m256i u = _mm256_and_si256(_mm256_sub_epi16(c[0], c[1]), inside);
    __m256i v = _mm256_and_si256(_mm256_srai_epi16(_mm256_sub_epi16(sum, twice), 1), inside);
    multiply(sums, RG, u, ones);
    multiply(sums, RG + 1, v, ones);
    multiply(sums, RG + 2, u, u);
    multiply(sums, RG + 3, v, v);
}

AVX2 static void carry(struct sums *sums, int64_t *out) {
    int32_t products[8];
    uint16_t counts[16];
    for (int which = BLACK; which <= GENTLY; which++) {
        int counted = which <= COLOURED || which == GENTLY;
        if (counted) _mm256_storeu_si256((__m256i *)counts, sums->counts[which]);
        else _mm256_storeu_si256((__m256i *)products, sums->products[which]);
        for (int lane = 0; lane < (counted ? 16 : 8); lane++) out[which] += counted ? counts[lane] : products[lane];
    }
    memset(sums, 0, sizeof *sums);
}

AVX2 static void measure_pixels(const uint8_t *rgb, long height, long width, long step, const struct scratch *rows,
                                int64_t *out) {
    const __m256i places = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    struct sums sums;
    memset(&sums, 0, sizeof sums);
    long seen = width - 1, x;
    for (long y = 0; y < height - 1 && seen > 0; y += step) {
        spread(rgb + 3 * y * width, width, rows->upper);
        spread(rgb + 3 * (y + 1) * width, width, rows->lower);
        if (sums.steps + seen / 16 + 1 > FULL) carry(&sums, out);
        struct sums now = sums;
        for (x = 0; x + 16 <= seen; x += 16) add(rows, x, _mm256_set1_epi16(-1), &now);
        if (x < seen) add(rows, x, _mm256_cmpgt_epi16(_mm256_set1_epi16(seen - x), places), &now);
        now.steps += seen / 16 + 1;
        sums = now;
        out[0] += seen;
    }
    carry(&sums, out);
}

/* Sums and luma of half blocks, of the two rows that are spread. */
AVX2 static void measure_halves(const struct scratch *s, long count, int32_t *const *halves, int32_t *light) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (long i = 0; i < count; i += 8) {
        __m256i h[3];
        for (int k = 0; k < 3; k++) {
            h[k] = _mm256_madd_epi16(_mm256_add_epi16(at(s->upper[k], 2 * i), at(s->lower[k], 2 * i)), ones);
            _mm256_storeu_si256((__m256i *)(halves[k] + i), h[k]);
        }
        __m256i both = _mm256_or_si256(h[0], _mm256_slli_epi32(h[1], 16));
        __m256i first = _mm256_madd_epi16(both, _mm256_set1_epi32(150 << 16 | 77));
        __m256i sum = _mm256_add_epi32(first, _mm256_madd_epi16(h[2], _mm256_set1_epi32(29)));
        _mm256_storeu_si256((__m256i *)(light + i), _mm256_srli_epi32(sum, 6));
    }
}

AVX2 static void add_turns(const int32_t *light, long count, int64_t *out) {
    int64_t steps = 0, turns = 0;
    for (long i = 0; i < count - 2; i++) {
        int32_t first = light[i + 1] - light[i], second = light[i + 2] - light[i + 1];
        steps += first * first;
        turns += first * second;
    }
    out[FINE_STEPS] += steps;
    out[FINE_TURNS] += turns;
}

AVX2 static void add_steps(const struct scratch *s, long across, int64_t *out) {
    const int32_t *r = s->blocks[0], *g = s->blocks[1], *b = s->blocks[2], *light = s->blocks[3];
    int64_t lights = 0, colours = 0;
    for (long i = 1; i < across; i++) {
        int32_t dr = r[i] - r[i - 1], dg = g[i] - g[i - 1], db = b[i] - b[i - 1], step = light[i] - light[i - 1];
        int32_t rg = dr - dg, yb = ((dr + dg) >> 1) - db;
        lights += step * step;
        colours += (int64_t)(rg * rg) + yb * yb;
    }
    out[LIGHT_STEPS] += lights;
    out[COLOUR_STEPS] += colours;
}

static void add_cells(const struct scratch *s, long across, int64_t *cells) {
    for (long i = 0; i < across; i++) {
        int32_t red = s->blocks[0][i], blue = s->blocks[2][i], total = red + s->blocks[1][i] + blue;
        int64_t light = s->blocks[3][i];
        if (total <= 48 * NEAR || total >= 48 * (255 - NEAR)) continue;
        double share = (double)CELLS / (total + 480);
        long cell = (long)(red * share) * CELLS + (long)(blue * share);
        cells[cell] += 1;
        cells[CELLS * CELLS + cell] += light;
        cells[2 * CELLS * CELLS + cell] += light * light;
    }
}

AVX2 static void measure_blocks(const uint8_t *rgb, long height, long width, long step, const struct scratch *s,
                                int64_t *out, int64_t *cells) {
    long across = width / BLOCK;
    for (long band = 0; band < height / BLOCK; band += step) {
        const uint8_t *top = rgb + 3 * BLOCK * band * width;
        for (int row = 0; row < 2; row++) {
            spread(top + 6 * row * width, width, s->upper);
            spread(top + (6 * row + 3) * width, width, s->lower);
            measure_halves(s, 2 * across, s->halves[row], s->light[row]);
            add_turns(s->light[row], 2 * across, out);
        }
        for (int k = 0; k < 3; k++)
            for (long i = 0; i < across; i++)
                s->blocks[k][i] = s->halves[0][k][2 * i] + s->halves[0][k][2 * i + 1] + s->halves[1][k][2 * i]
                                  + s->halves[1][k][2 * i + 1];
        for (long i = 0; i < across; i++)
            s->blocks[3][i] = (77 * s->blocks[0][i] + 150 * s->blocks[1][i] + 29 * s->blocks[2][i]) >> 8;
        add_steps(s, across, out);
        add_cells(s, across, cells);
    }
}

int can_measure(void) { return __builtin_cpu_supports("avx2"); }

/* 0, or 1 where there is no memory.

   rgb: height x width, no side above 65,536. row_step, band_step: every which row, row of blocks is looked at. out: the 20 of
   measurements.Sums. cells: (3, CELLS * CELLS). Both are added to. */
AVX2 int measure(const uint8_t *rgb, long height, long width, long row_step, long band_step, int64_t *out, int64_t *cells) {
    long across = width / BLOCK, wide = width + PAD, many = 2 * across + PAD;
    int16_t *planes = calloc(6 * wide, sizeof *planes);
    int32_t *numbers = malloc((8 * many + 4 * (across + PAD)) * sizeof *numbers);
    int failed = !planes || !numbers;
    if (!failed) {
        struct scratch s;
        for (int k = 0; k < 3; k++) {
            s.upper[k] = planes + k * wide;
            s.lower[k] = planes + (3 + k) * wide;
            s.halves[0][k] = numbers + k * many;
            s.halves[1][k] = numbers + (3 + k) * many;
        }
        for (int k = 0; k < 2; k++) s.light[k] = numbers + (6 + k) * many;
        for (int k = 0; k < 4; k++) s.blocks[k] = numbers + 8 * many + k * (across + PAD);
        measure_pixels(rgb, height, width, row_step, &s, out);
        measure_blocks(rgb, height, width, band_step, &s, out, cells);
    }
    free(planes), free(numbers);
    return failed;
}

#else

int can_measure(void) { return 0; }

int measure(void) { return 1; }

#endif
