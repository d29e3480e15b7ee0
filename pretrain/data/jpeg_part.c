/* A part of a JPEG, whole or reduced, decoded without the rest: pixel for pixel what libjpeg-turbo makes of the whole.

   Rows above the part are entropy-decoded and no more, rows below it not at all, columns beside it neither transformed
   nor coloured. Colours are smoothed with those beside them, so a sample more is decoded on each side and cut off. */

#include <setjmp.h>
#include <stdio.h>

#include <jpeglib.h>

struct failure {
    struct jpeg_error_mgr base;
    jmp_buf back;
};

static void give_up(j_common_ptr jpeg) { longjmp(((struct failure *)jpeg->err)->back, 1); }

static void count(j_common_ptr jpeg, int level) {
    if (level < 0) jpeg->err->num_warnings++;
}

static void say_nothing(j_common_ptr jpeg) { (void)jpeg; }

/* 0, or 1 where the file is damaged, is none, or has no such part.

   eighths: of its sides at which the image is decoded; fewer than 8 without smoothing of colours. whole: width of the image at
   these, as the caller read it. out: height x whole x 3 bytes at least. columns: becomes the width of what is
   written there, and of that the part begins at place. */
int decode_part(const unsigned char *data, unsigned long size, unsigned whole, unsigned left, unsigned top, unsigned width,
                unsigned height, unsigned eighths, unsigned char *out, unsigned *columns, unsigned *place) {
    struct jpeg_decompress_struct jpeg;
    struct failure failure;
    jpeg.err = jpeg_std_error(&failure.base);
    failure.base.error_exit = give_up;
    failure.base.emit_message = count;
    failure.base.output_message = say_nothing;
    jpeg.mem = NULL;
    if (setjmp(failure.back)) {
        jpeg_destroy_decompress(&jpeg);
        return 1;
    }
    jpeg_create_decompress(&jpeg);  /* which gives up as well: of another version, or where there is no memory */
    jpeg_mem_src(&jpeg, (unsigned char *)data, size);
    jpeg_read_header(&jpeg, TRUE);
    jpeg.out_color_space = JCS_RGB;
    jpeg.dct_method = JDCT_ISLOW;
    jpeg.do_fancy_upsampling = eighths == 8;
    jpeg.scale_num = eighths;
    jpeg.scale_denom = 8;
    jpeg_start_decompress(&jpeg);
    if (!width || !height || left >= jpeg.output_width || width > jpeg.output_width - left ||
        top >= jpeg.output_height || height > jpeg.output_height - top || whole != jpeg.output_width)
        give_up((j_common_ptr)&jpeg);
    unsigned across = jpeg.max_h_samp_factor, down = jpeg.max_v_samp_factor;  /* a sample of colour */
    unsigned right = jpeg.output_width - (left + width) > across ? left + width + across : jpeg.output_width;
    JDIMENSION first = left > across ? left - across : 0;
    *columns = right - first;
    jpeg_crop_scanline(&jpeg, &first, columns);
    *place = left - first;
    if (top > down) jpeg_skip_scanlines(&jpeg, top - down);
    while (jpeg.output_scanline < top + height) {
        unsigned line = jpeg.output_scanline;
        unsigned char *row = out + (line < top ? 0 : 3ul * *columns * (line - top));  /* that above is written over */
        if (jpeg_read_scanlines(&jpeg, &row, 1) != 1) give_up((j_common_ptr)&jpeg);
    }
    int damaged = jpeg.err->num_warnings > 0;
    jpeg_abort_decompress(&jpeg);
    jpeg_destroy_decompress(&jpeg);
    return damaged;
}
