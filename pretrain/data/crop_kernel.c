/* A crop of an image, resized as torch resizes uint8 with antialias=True: bit for bit.

   Columns first, then rows, each a sum of products with 16-bit weights, rounded to a byte. Two rows are resized across at
   a time, one in each half of a register, and kept in a ring of as many as the next row downwards is made of. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Output i is the sum over taps t of weights[i * taps + t] * input[first[i] + t], shifted down by precision. */
struct axis {
    const int32_t *first;
    const int16_t *weights;
    int32_t taps, precision;
};

#ifdef __x86_64__
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))

AVX2 static inline __m256i pair_of(const int16_t *weights) {
    int32_t pair;
    memcpy(&pair, weights, 4);
    return _mm256_set1_epi32(pair);
}

AVX2 static inline __m256i both(const uint8_t *upper, const uint8_t *lower) {
    __m128i one = _mm_loadu_si128((const __m128i *)upper), other = _mm_loadu_si128((const __m128i *)lower);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(one), other, 1);
}

/* Two rows of RGB to two rows of three planes; taps and size are multiples of four. */
AVX2 static void across(const uint8_t *upper, const uint8_t *lower, int size, const struct axis *axis, long pitch,
                        uint8_t *out) {
    const __m256i left = _mm256_broadcastsi128_si256(  /* of four pixels the first two, channel by channel */
        _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
    const __m256i right = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
    const __m256i planes = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, -1, -1, -1, -1));
    const __m256i half = _mm256_set1_epi32(1 << (axis->precision - 1));
    const __m128i shift = _mm_cvtsi32_si128(axis->precision);
    const int16_t *weights = axis->weights;
    for (int x = 0; x < size; x += 4) {
        __m256i sums[4];
        for (int i = 0; i < 4; i++, weights += axis->taps) {
            long start = 3l * axis->first[x + i];
            __m256i sum = half;
            for (int t = 0; t < axis->taps; t += 4) {
                __m256i four = both(upper + start + 3 * t, lower + start + 3 * t);
                __m256i first = _mm256_madd_epi16(_mm256_shuffle_epi8(four, left), pair_of(weights + t));
                __m256i second = _mm256_madd_epi16(_mm256_shuffle_epi8(four, right), pair_of(weights + t + 2));
                sum = _mm256_add_epi32(sum, _mm256_add_epi32(first, second));
            }
            sums[i] = _mm256_sra_epi32(sum, shift);
        }
        __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3]));
        uint32_t found[8];
        _mm256_storeu_si256((__m256i *)found, _mm256_shuffle_epi8(bytes, planes));
        for (int plane = 0; plane < 3; plane++) {
            memcpy(out + plane * pitch + x, found + plane, 4);
            memcpy(out + (3 + plane) * pitch + x, found + 4 + plane, 4);
        }
    }
}

/* 32 bytes of a row from those of the rows above and below it. */
AVX2 static inline __m256i down(const uint8_t *const *rows, long offset, const int16_t *weights, int taps, int precision) {
    const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(1 << (precision - 1));
    const __m128i shift = _mm_cvtsi32_si128(precision);
    __m256i sums[4] = {half, half, half, half};
    for (int t = 0; t < taps; t += 2) {
        __m256i one = _mm256_loadu_si256((const __m256i *)(rows[t] + offset));
        __m256i other = _mm256_loadu_si256((const __m256i *)(rows[t + 1] + offset));
        __m256i low = _mm256_unpacklo_epi8(one, other), high = _mm256_unpackhi_epi8(one, other);
        __m256i pair = pair_of(weights + t);
        sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), pair));
        sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), pair));
        sums[2] = _mm256_add_epi32(sums[2], _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), pair));
        sums[3] = _mm256_add_epi32(sums[3], _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), pair));
    }
    for (int i = 0; i < 4; i++) sums[i] = _mm256_sra_epi32(sums[i], shift);
    return _mm256_packus_epi16(_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3]));
}

int can_resize(void) { return __builtin_cpu_supports("avx2"); }

/* 0, or 1 where there is no memory.

   image: first byte of the crop, rows of RGB that begin stride bytes apart. size: of the square that comes out, a multiple
   of four. columns: taps are a multiple of four. rows: taps are even. out: three planes of size x size bytes. */
AVX2 int resize(const uint8_t *image, long stride, int width, int height, int size, const struct axis *columns,
                const struct axis *rows, uint8_t *out) {
    long pitch = (size + 31) / 32 * 32, ring = (rows->taps + 3) / 2 * 2, row_bytes = 3l * width;
    uint8_t *held = malloc(ring * 3 * pitch), *last = malloc(row_bytes + 16);
    const uint8_t **wanted = malloc(rows->taps * sizeof *wanted);
    int failed = !held || !last || !wanted;
    if (!failed) memcpy(last, image + (height - 1) * stride, row_bytes);  /* beyond its end nothing may be read */
    for (int y = 0, made = 0; !failed && y < size; y++) {
        for (; made < rows->first[y] + rows->taps; made += 2) {
            const uint8_t *upper = made + 1 < height ? image + made * stride : last;
            const uint8_t *lower = made + 2 < height ? upper + stride : last;
            across(upper, lower, size, columns, pitch, held + made % ring * 3 * pitch);
        }
        for (int t = 0; t < rows->taps; t++) wanted[t] = held + (rows->first[y] + t) % ring * 3 * pitch;
        for (int plane = 0; plane < 3; plane++) {
            uint8_t *line = out + ((long)plane * size + y) * size;
            for (int x = 0; x < size; x += 32) {
                __m256i bytes = down(wanted, plane * pitch + x, rows->weights + y * rows->taps, rows->taps, rows->precision);
                if (x + 32 <= size) {
                    _mm256_storeu_si256((__m256i *)(line + x), bytes);
                } else {
                    uint8_t some[32];
                    _mm256_storeu_si256((__m256i *)some, bytes);
                    memcpy(line + x, some, size - x);
                }
            }
        }
    }
    free(held);
    free(last);
    free(wanted);
    return failed;
}

#else

int can_resize(void) { return 0; }

#endif
