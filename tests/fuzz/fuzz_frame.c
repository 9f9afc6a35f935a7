/* SPDX-License-Identifier: Apache-2.0 */
/* What comes out is a frame that was in the input, and how the input was cut into reads changes
 * nothing. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "wire/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* All frames of the input, put again, and whether it ended in a refusal. */
static bool replay(const uint8_t *data, size_t size, size_t step, struct buf *out)
{
    struct frame_reader r;
    struct frame f;
    bool refused = false;
    int rc = 0;

    frame_reader_init(&r);
    while (size > 0 && !refused) {
        struct err e = {0};
        size_t room;
        void *at = frame_reader_space(&r, &room);
        size_t n = size < step ? size : step;

        if (room == 0 || room > FRAME_HEADER + FRAME_MAX + 16384)
            abort();
        n = n < room ? n : room;
        memcpy(at, data, n);
        frame_reader_filled(&r, n);
        data += n;
        size -= n;
        while ((rc = frame_next(&r, &f, &e)) == 1) {
            if (f.len > FRAME_MAX)
                abort();
            frame_put(out, f.type, f.stream, f.data, f.len);
        }
        refused = rc < 0;
    }
    frame_reader_free(&r);
    return refused;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    auto_buf struct buf in = BUF((size_t)1 << 24);
    auto_buf struct buf whole = BUF((size_t)1 << 24);
    auto_buf struct buf pieces = BUF((size_t)1 << 24);
    size_t step = size > 0 ? data[0] % 31 + 1 : 1;

    /* The first byte says how to cut, and whether the magic is a gift. */
    if (size > 0 && data[0] >= 128)
        buf_append(&in, wire_magic, WIRE_MAGIC_LEN);
    buf_append(&in, data, size);
    if (replay((const uint8_t *)buf_str(&in), in.len, in.len, &whole) !=
            replay((const uint8_t *)buf_str(&in), in.len, step, &pieces) ||
        whole.len != pieces.len || whole.len > in.len ||
        memcmp(buf_str(&whole), buf_str(&pieces), whole.len) != 0)
        abort();
    return 0;
}
