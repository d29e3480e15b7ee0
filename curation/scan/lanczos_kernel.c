/* Three reductions of an image by Pillow's 8-bit Lanczos, bit for bit: of lanczos.py, with products of pairs of 16 bits.

   A weight w of 22 fractional bits is split into high * 2^15 + low, low in [-2^14, 2^14). Products with bytes of either
   part, two of them added, stay within 32 bits; all further sums are taken modulo 2^32, which is exact because Pillow's
   own sum of 32 bits holds the result. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 16, SPLIT = 15, PRECISION = 22 };

/* Output i is made of pairs[i] pairs of samples 2 j and 2 j + 1, from j = first[i] on. */
struct axis {
    const int32_t *first, *pairs;
    const int16_t *weights;  /* of all outputs, four a pair: low parts of two weights, their high parts */
    int32_t out;
};

#ifdef __x86_64__
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f,avx512vnni")))

/* A strip: of every pair of samples along an axis, those of 16 lines as 16-bit integers, in two registers. */

AVX2 static inline void store_pair(__m256i *strip, long pair, __m128i first, __m128i second) {
    strip[2 * pair] = _mm256_cvtepu8_epi16(first);
    strip[2 * pair + 1] = _mm256_cvtepu8_epi16(second);
}

/* Lines are 16 columns, pairs are of rows; the number of rows is even. */
AVX2 static void strip_of_columns(const uint8_t *image, long pitch, long height, __m256i *strip) {
    for (long y = 0; y < height; y += 2, image += 2 * pitch) {
        __m128i one = _mm_loadu_si128((const __m128i *)image), other = _mm_loadu_si128((const __m128i *)(image + pitch));
        store_pair(strip, y / 2, _mm_unpacklo_epi8(one, other), _mm_unpackhi_epi8(one, other));
    }
}

/* Eight rows of eight pairs of bytes, transposed. */
AVX2 static inline void transposed(const uint8_t *image, long pitch, __m128i *out) {
    __m128i a[8], b[8];
    for (int i = 0; i < 8; i++) a[i] = _mm_loadu_si128((const __m128i *)(image + i * pitch));
    for (int i = 0; i < 4; i++) {
        b[2 * i] = _mm_unpacklo_epi16(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        a[i] = _mm_unpacklo_epi32(b[i], b[i + 2]);
        a[i + 1] = _mm_unpackhi_epi32(b[i], b[i + 2]);
        a[i + 2] = _mm_unpacklo_epi32(b[i + 1], b[i + 3]);
        a[i + 3] = _mm_unpackhi_epi32(b[i + 1], b[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        out[2 * i] = _mm_unpacklo_epi64(a[i], a[i + 4]);
        out[2 * i + 1] = _mm_unpackhi_epi64(a[i], a[i + 4]);
    }
}

/* Lines are 16 rows, pairs are of columns; the width is a multiple of 16. */
AVX2 static void strip_of_rows(const uint8_t *image, long pitch, long width, __m256i *strip) {
    for (long x = 0; x < width; x += 16) {
        __m128i upper[8], lower[8];
        transposed(image + x, pitch, upper);
        transposed(image + x + 8 * pitch, pitch, lower);
        for (int i = 0; i < 8; i++) store_pair(strip, x / 2 + i, upper[i], lower[i]);
    }
}

AVX2 static inline __m256i pair_of(const int16_t *weights) {
    int32_t pair;
    memcpy(&pair, weights, 4);
    return _mm256_set1_epi32(pair);
}

AVX2 static inline __m256i rounded(__m256i low, __m256i high) {
    return _mm256_srai_epi32(_mm256_add_epi32(low, _mm256_slli_epi32(high, SPLIT)), PRECISION);
}

/* Reduce a strip along its axis to lines of a column each: 16 bytes in every row of out. */
AVX2 static void reduce_by_avx2(const __m256i *strip, const struct axis *axis, uint8_t *out, long pitch) {
    const __m256i half = _mm256_set1_epi32(1 << (PRECISION - 1));
    const int16_t *weights = axis->weights;
    for (int i = 0; i < axis->out; i++, out += pitch) {
        const __m256i *at = strip + 2l * axis->first[i];
        __m256i low[2] = {half, half}, high[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (int pair = 0; pair < axis->pairs[i]; pair++, at += 2, weights += 4) {
            __m256i fine = pair_of(weights), coarse = pair_of(weights + 2);
            for (int k = 0; k < 2; k++) {
                low[k] = _mm256_add_epi32(low[k], _mm256_madd_epi16(at[k], fine));
                high[k] = _mm256_add_epi32(high[k], _mm256_madd_epi16(at[k], coarse));
            }
        }
        __m256i words = _mm256_packs_epi32(rounded(low[0], high[0]), rounded(low[1], high[1]));
        __m256i bytes = _mm256_packus_epi16(words, words);
        __m128i line = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
        _mm_storeu_si128((__m128i *)out, line);
    }
}

/* The same with AVX-512: products are added as they are made, of four pairs apart, since each waits for the one before. */
AVX512 static void reduce_by_avx512(const __m256i *strip, const struct axis *axis, uint8_t *out, long pitch) {
    const __m512i zero = _mm512_setzero_si512(), half = _mm512_set1_epi32(1 << (PRECISION - 1));
    const int16_t *weights = axis->weights;
    for (int i = 0; i < axis->out; i++, out += pitch) {
        const __m512i *at = (const __m512i *)strip + axis->first[i];
        __m512i low[4] = {half, zero, zero, zero}, high[4] = {zero, zero, zero, zero};
        for (int left = axis->pairs[i]; left > 0;) {
            int some = left < 4 ? 1 : 4;
            for (int k = 0; k < some; k++, weights += 4) {
                int32_t fine, coarse;
                memcpy(&fine, weights, 4), memcpy(&coarse, weights + 2, 4);
                low[k] = _mm512_dpwssd_epi32(low[k], at[k], _mm512_set1_epi32(fine));
                high[k] = _mm512_dpwssd_epi32(high[k], at[k], _mm512_set1_epi32(coarse));
            }
            left -= some, at += some;
        }
        for (int k = 1; k < 4; k++) {
            low[0] = _mm512_add_epi32(low[0], low[k]);
            high[0] = _mm512_add_epi32(high[0], high[k]);
        }
        __m512i sum = _mm512_srai_epi32(_mm512_add_epi32(low[0], _mm512_slli_epi32(high[0], SPLIT)), PRECISION);
        _mm_storeu_si128((__m128i *)out, _mm512_cvtusepi32_epi8(_mm512_max_epi32(sum, zero)));
    }
}

typedef void reducer(const __m256i *strip, const struct axis *axis, uint8_t *out, long pitch);

/* Eight pixels' luma, in 32 bits: 38470 is twice 19235, since it is no signed 16-bit number. Reads 28 bytes. */
AVX2 static inline __m256i luma_of_eight(const uint8_t *rgb) {
    const __m256i red_green = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -1, 1, -1, 3, -1, 4, -1, 6, -1, 7, -1, 9, -1, 10, -1));
    const __m256i green_blue = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(1, -1, 2, -1, 4, -1, 5, -1, 7, -1, 8, -1, 10, -1, 11, -1));
    __m128i one = _mm_loadu_si128((const __m128i *)rgb), other = _mm_loadu_si128((const __m128i *)(rgb + 12));
    __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(one), other, 1);
    __m256i first = _mm256_madd_epi16(_mm256_shuffle_epi8(both, red_green), _mm256_set1_epi32(19235 << 16 | 19595));
    __m256i second = _mm256_madd_epi16(_mm256_shuffle_epi8(both, green_blue), _mm256_set1_epi32(7471 << 16 | 19235));
    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(first, second), _mm256_set1_epi32(0x8000)), 16);
}

/* A row's luma as Pillow's convert("L"). */
AVX2 static void luma(const uint8_t *rgb, long width, uint8_t *grey) {
    long x = 0;
    for (; x + 18 <= width; x += 16) {
        __m256i words = _mm256_packus_epi32(luma_of_eight(rgb + 3 * x), luma_of_eight(rgb + 3 * x + 24));
        __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128((__m128i *)(grey + x), _mm_shuffle_epi32(bytes, _MM_SHUFFLE(3, 1, 2, 0)));
    }
    for (; x < width; x++)
        grey[x] = (rgb[3 * x] * 19595u + rgb[3 * x + 1] * 38470u + rgb[3 * x + 2] * 7471u + 0x8000u) >> 16;
}

/* Add a row's sum and its sum of squares. The length is a multiple of 16. */
AVX2 static void add_sums(const uint8_t *grey, long length, int64_t *sums) {
    __m256i total = _mm256_setzero_si256(), squares = total;
    for (long x = 0; x < length; x += 16) {
        __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(grey + x)));
        total = _mm256_add_epi32(total, _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
        squares = _mm256_add_epi32(squares, _mm256_madd_epi16(words, words));
    }
    uint32_t some[16];
    _mm256_storeu_si256((__m256i *)some, total), _mm256_storeu_si256((__m256i *)(some + 8), squares);
    for (int i = 0; i < 16; i++) sums[i / 8] += some[i];
}

int can_reduce(void) { return __builtin_cpu_supports("avx2"); }

static long filled(long size) { return (size + LANES - 1) / LANES * LANES; }

/* 0, or 1 where there is no memory.

   pixels: height x width of as many channels, 1 or 3, no side longer than 16,384. axes: across and down, to the small and
   to the large side, both multiples of 16 and this no less. across_first: bits of the image, its transpose, and the large
   reduction of the image. out: those three, one after the other. sums: of luma and of its squares. */
AVX2 int reduce(const uint8_t *pixels, int channels, long height, long width, const struct axis *const *axes,
                int across_first, uint8_t *out, int64_t *sums) {
    reducer *reduce_strip = __builtin_cpu_supports("avx512vnni") ? reduce_by_avx512 : reduce_by_avx2;
    long pitch = filled(width), tall = filled(height), longest = pitch > tall ? pitch : tall, large = axes[2]->out;
    uint8_t *grey = malloc(tall * pitch), *once = malloc(3 * large * longest), *made = malloc(large * large);
    __m256i *strip = aligned_alloc(64, 32 * longest);
    int failed = !grey || !once || !made || !strip;
    sums[0] = sums[1] = 0;
    for (long top = 0; !failed && top < tall; top += LANES) {
        uint8_t *rows = grey + top * pitch;
        for (long y = top; y < top + LANES; y++, rows += pitch) {
            long known = y < height ? width : 0;
            if (channels == 3) luma(pixels + 3 * y * width, known, rows);
            else memcpy(rows, pixels + y * width, known);
            memset(rows + known, 0, pitch - known);
            add_sums(rows, pitch, sums);
        }
        strip_of_rows(grey + top * pitch, pitch, pitch, strip);
        for (int k = 0; k < 3; k++)
            if (across_first >> k & 1) reduce_strip(strip, axes[k & 2], once + k * large * longest + top, tall);
    }
    for (long left = 0; !failed && across_first != 7 && left < pitch; left += LANES) {
        strip_of_columns(grey + left, pitch, tall, strip);
        for (int k = 0; k < 3; k++)
            if (!(across_first >> k & 1)) reduce_strip(strip, axes[(k & 2) + 1], once + k * large * longest + left, pitch);
    }
    for (int k = 0; !failed && k < 3; k++) {
        int down_next = across_first >> k & 1, turned = down_next == (k == 1);
        const struct axis *next = axes[(k & 2) + down_next];
        long side = next->out, length = down_next ? tall : pitch;
        for (long line = 0; line < side; line += LANES) {
            strip_of_rows(once + k * large * longest + line * length, length, length, strip);
            reduce_strip(strip, next, (turned ? made : out) + line, side);
        }
        if (turned)
            for (long i = 0; i < side * side; i++) out[i] = made[i % side * side + i / side];
        out += side * side;
    }
    free(grey), free(once), free(made), free(strip);
    return failed;
}

#else

int can_reduce(void) { return 0; }

int reduce(void) { return 1; }

#endif
