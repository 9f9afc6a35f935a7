/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/frame.h"

#include <string.h>

#include "base/jout.h"

enum { READ_MIN = 4096 };

#define NOT_OURS "the other side does not speak our protocol: "

/* As a header its length would be over FRAME_MAX, so it is never mistaken for a frame. */
const unsigned char wire_magic[WIRE_MAGIC_LEN] = "\x89HYPEMAN\r\n\x1a\nWIRE";

static uint32_t get_u32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void put_u32(unsigned char *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(v >> (8 * i));
}

void frame_put_head(struct buf *out, struct frame_head head)
{
    unsigned char header[FRAME_HEADER] = {0};

    put_u32(header, head.len);
    header[4] = head.type;
    header[5] = head.flags;
    put_u32(header + 8, head.stream);
    buf_append(out, header, sizeof(header));
}

void frame_set_len(struct buf *out, size_t at, uint32_t len)
{
    if (buf_ok(out))
        put_u32((unsigned char *)out->data + at, len);
}

void frame_put(struct buf *out, uint8_t type, uint32_t stream, const void *data, size_t len)
{
    if (len > FRAME_MAX) {
        out->failed = true;
        return;
    }
    frame_put_head(out, (struct frame_head){.type = type, .stream = stream, .len = (uint32_t)len});
    buf_append(out, data, len);
}

void frame_put_u32(struct buf *out, uint8_t type, uint32_t stream, uint32_t v)
{
    unsigned char bytes[4];

    put_u32(bytes, v);
    frame_put(out, type, stream, bytes, sizeof(bytes));
}

void frame_put_u32s(struct buf *out, uint8_t type, uint32_t stream, uint32_t a, uint32_t b)
{
    unsigned char bytes[8];

    put_u32(bytes, a);
    put_u32(bytes + 4, b);
    frame_put(out, type, stream, bytes, sizeof(bytes));
}

uint32_t frame_u32(const struct frame *f, size_t index)
{
    return f->len < 4 * (index + 1) ? 0 : get_u32(f->data + 4 * index);
}

uint32_t frame_cost(const struct frame *f)
{
    if (f->type == FRAME_ZEROS)
        return frame_u32(f, 0);
    return f->type == FRAME_DATA || f->type == FRAME_ENTRY ? (uint32_t)f->len : 0;
}

uint32_t window_to_guest(enum frame_type type)
{
    return type == FRAME_EXEC ? WINDOW_OF_COMMAND : WINDOW_OF_COPY;
}

uint32_t window_to_host(enum frame_type type)
{
    return type == FRAME_EXEC ? WINDOW_OUT_OF_COMMAND : WINDOW_OF_COPY;
}

void frame_put_hello(struct buf *out, const char *nonce)
{
    auto_buf struct buf text = BUF(256);
    struct jout j = JOUT(&text);

    jout_open(&j, NULL, '{');
    jout_int(&j, "version", WIRE_VERSION);
    jout_str(&j, "nonce", nonce);
    jout_close(&j, '}');
    buf_append(out, wire_magic, sizeof(wire_magic));
    frame_put(out, FRAME_HELLO, 0, text.data, text.len);
}

void frame_reader_init(struct frame_reader *r)
{
    *r = (struct frame_reader){.in = BUF(FRAME_HEADER + FRAME_MAX + READ_MIN)};
}

void frame_reader_free(struct frame_reader *r)
{
    buf_free(&r->in);
}

void frame_reader_reset(struct frame_reader *r)
{
    bool keeps_memory = r->keeps_memory;

    buf_free(&r->in);
    frame_reader_init(r);
    r->keeps_memory = keeps_memory;
}

void frame_reader_resync(struct frame_reader *r)
{
    r->in.failed = false;
    r->synchronised = false;
}

/* How many bytes the frame at the front still misses, as far as its header is known. */
static size_t missing(const struct frame_reader *r)
{
    uint32_t len;

    if (!r->synchronised || r->in.len < FRAME_HEADER)
        return 0;
    len = get_u32((const unsigned char *)r->in.data);
    return len > FRAME_MAX || FRAME_HEADER + len < r->in.len ? 0 : FRAME_HEADER + len - r->in.len;
}

void *frame_reader_space(struct frame_reader *r, size_t *room)
{
    size_t want;
    void *at;

    *room = 0;
    if (r->in.failed)
        return NULL;
    buf_consume(&r->in, r->taken);
    r->taken = 0;
    want = missing(r);
    if (want < READ_MIN)
        want = READ_MIN;
    if (want > r->in.max - r->in.len)
        want = r->in.max - r->in.len;
    at = buf_space(&r->in, want);
    if (at)
        *room = r->in.cap - 1 - r->in.len; /* the allocation may be roomier than asked for */
    return at;
}

void frame_reader_filled(struct frame_reader *r, size_t n)
{
    buf_added(&r->in, n);
}

/*
 * Takes what comes before the magic, and the magic itself if it is there. Only its first byte is
 * 0x89, so a match that fails cannot hide the beginning of another one.
 */
static bool skip_to_magic(struct frame_reader *r)
{
    const char *from = r->in.data + r->taken;
    size_t have = r->in.len - r->taken;

    while (have > 0) {
        const char *at = memchr(from, wire_magic[0], have);
        size_t n;

        if (!at)
            break;
        have -= (size_t)(at - from);
        from = at;
        n = have < WIRE_MAGIC_LEN ? have : WIRE_MAGIC_LEN;
        if (memcmp(from, wire_magic, n) == 0) {
            r->synchronised = n == WIRE_MAGIC_LEN;
            r->taken = r->in.len - have + (r->synchronised ? n : 0);
            return r->synchronised;
        }
        from++;
        have--;
    }
    r->taken = r->in.len;
    return false;
}

/* An idle connection holds no memory. */
static int wait_for_more(struct frame_reader *r)
{
    if (r->in.len == r->taken && !r->keeps_memory) {
        buf_free(&r->in);
        r->taken = 0;
    }
    return 0;
}

static int refuse(struct frame_reader *r, struct err *e, const char *why)
{
    r->in.failed = true;
    return err_set(e, ERR_INVALID, NOT_OURS "%s", why);
}

void frame_set_stream(unsigned char *at, uint32_t stream)
{
    put_u32(at + 8, stream);
}

int frame_at(const unsigned char *p, size_t have, struct frame *out, struct err *e)
{
    uint32_t len;

    if (have < FRAME_HEADER)
        return 0;
    len = get_u32(p);
    if (len > FRAME_MAX)
        return err_set(e, ERR_INVALID, NOT_OURS "a frame is too long");
    if (p[6] != 0 || p[7] != 0)
        return err_set(e, ERR_INVALID, NOT_OURS "a header's reserved bytes are not zero");
    if (have - FRAME_HEADER < len)
        return 0;
    *out = (struct frame){
        .type = p[4],
        .flags = p[5],
        .stream = get_u32(p + 8),
        .data = p + FRAME_HEADER,
        .len = len,
    };
    return 1;
}

int frame_next(struct frame_reader *r, struct frame *out, struct err *e)
{
    const unsigned char *p;
    size_t have;
    int rc;

    if (r->in.failed)
        return refuse(r, e, "it has failed before");
    for (;;) {
        if (!r->synchronised && !skip_to_magic(r))
            return wait_for_more(r);
        p = (const unsigned char *)r->in.data + r->taken;
        have = r->in.len - r->taken;
        if (have < FRAME_HEADER)
            return wait_for_more(r);
        if (memcmp(p, wire_magic, FRAME_HEADER) != 0)
            break;
        r->synchronised = false; /* a connection that began while we did not see the last one end */
    }
    rc = frame_at(p, have, out, e);
    if (rc < 0)
        r->in.failed = true;
    if (rc == 0)
        return wait_for_more(r);
    r->taken += rc > 0 ? FRAME_HEADER + out->len : 0;
    return rc;
}
