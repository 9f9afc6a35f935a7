/* SPDX-License-Identifier: Apache-2.0 */
/* What passes between a stream and its worker, through their rings (agent/ring.h). */
#include <unistd.h>

#include "agent/stream.h"
#include "agent/worker.h"

static void ring_bell(const struct stream *st)
{
    if (st->in.fd >= 0)
        (void)!write(st->in.fd, "", 1);
}

void stream_relay(struct stream *st)
{
    struct ring *from = &st->from_worker;
    struct err e = {0};
    struct frame f;
    size_t have;

    while (st->id != 0) {
        unsigned char *p = ring_bytes(from, &have);
        int rc = frame_at(p, have, &f, &e);

        if (rc == 0 && !st->has_exited && !ring_ask_for_bytes(from, have + 1))
            continue;
        st->of->is_blocked |= channel_is_full(st->of->channel);
        if (rc <= 0 || frame_cost(&f) > st->credit || channel_is_full(st->of->channel))
            break;
        st->credit -= frame_cost(&f);
        frame_set_stream(p, st->id);
        channel_pass(st->of->channel, p, FRAME_HEADER + f.len);
        if (f.type == FRAME_DONE)
            st->id = 0;
        ring_take(from, FRAME_HEADER + f.len);
    }
    (void)ring_bytes(from, &have);
    if (have < from->size / 2 && ring_wants_bell_for_room(from))
        ring_bell(st);
}

void stream_feed(struct stream *st)
{
    struct ring *to = &st->to_worker;

    while (to->state && st->input.len > 0) {
        size_t n = ring_write(to, st->input.data, st->input.len);

        buf_consume(&st->input, n);
        if (n == 0 && ring_ask_for_room(to, 1))
            break;
    }
    /* A turn of the processor for each frame costs more than what is in it. */
    if (st->unsaid < BYTES_A_BELL && !st->input_is_over && st->input.len == 0)
        return;
    st->unsaid = 0;
    if (to->state && ring_wants_bell_for_bytes(to))
        ring_bell(st);
}

/*
 * What is in the ring counts as not taken: so the host sends no more than fits there, and the
 * port's own buffers, whose running out stops the machine for each of them, stay free. A bell
 * tells when it has become less.
 */
size_t stream_untaken(struct stream *st)
{
    struct ring *to = &st->to_worker;
    size_t have = 0;

    if (to->state)
        (void)ring_bytes(to, &have);
    if (have < RING_LOW)
        return have;
    (void)ring_ask_for_room(to, 0);
    (void)ring_bytes(to, &have);
    return have;
}
