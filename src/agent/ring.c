/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/ring.h"

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"

/*
 * Counted since the beginning. Who asks says so first and looks then, who acts acts
 * first and looks then whether it was asked; both in one order, so one of them sees
 * the other (sequential consistency, which is what plain accesses to atomics have).
 */
struct ring_state {
    _Atomic size_t put;
    _Atomic size_t taken;
    atomic_bool wants_bytes;
    atomic_bool wants_room;
};

enum { STATE_SIZE = 4096 };

static void *map(void *at, size_t len, int fd, off_t from)
{
    void *p = mmap(at, len, PROT_READ | PROT_WRITE, MAP_SHARED | (at ? MAP_FIXED : 0), fd, from);

    return p == MAP_FAILED ? NULL : p;
}

int ring_init(struct ring *r, size_t size, struct err *e)
{
    auto_close int fd = memfd_create("ring", MFD_CLOEXEC);
    unsigned char *whole;

    *r = (struct ring){.size = size};
    if (fd < 0 || ftruncate(fd, (off_t)(STATE_SIZE + size)) < 0)
        return err_errno(e, "make memory to share");
    whole = mmap(NULL, STATE_SIZE + 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (whole == MAP_FAILED)
        return err_errno(e, "map memory to share");
    if (!map(whole, STATE_SIZE + size, fd, 0) ||
        !map(whole + STATE_SIZE + size, size, fd, STATE_SIZE)) {
        err_errno(e, "map memory to share");
        (void)munmap(whole, STATE_SIZE + 2 * size);
        return -1;
    }
    r->state = (struct ring_state *)(void *)whole;
    r->data = whole + STATE_SIZE;
    r->state->wants_bytes = true; /* who reads begins by waiting */
    return 0;
}

void ring_free(struct ring *r)
{
    if (r->state)
        (void)munmap(r->state, STATE_SIZE + 2 * r->size);
    r->state = NULL;
}

void ring_keep_from_children(const struct ring *r)
{
    if (r->state)
        (void)madvise(r->state, STATE_SIZE + 2 * r->size, MADV_DONTFORK);
}

unsigned char *ring_room(const struct ring *r, size_t *room_out)
{
    size_t put = r->state->put;

    *room_out = r->size - (put - r->state->taken);
    return r->data + (put & (r->size - 1));
}

void ring_put(struct ring *r, size_t n)
{
    r->state->put += n;
}

size_t ring_write(struct ring *r, const void *data, size_t len)
{
    size_t room;
    unsigned char *at = ring_room(r, &room);

    if (len > room)
        len = room;
    memcpy(at, data, len);
    ring_put(r, len);
    return len;
}

unsigned char *ring_bytes(const struct ring *r, size_t *have_out)
{
    size_t taken = r->state->taken;

    *have_out = r->state->put - taken;
    return r->data + (taken & (r->size - 1));
}

void ring_take(struct ring *r, size_t n)
{
    r->state->taken += n;
}

static bool was_asked(atomic_bool *flag)
{
    return *flag && atomic_exchange(flag, false);
}

bool ring_wants_bell_for_bytes(struct ring *r)
{
    return was_asked(&r->state->wants_bytes);
}

bool ring_wants_bell_for_room(struct ring *r)
{
    return was_asked(&r->state->wants_room);
}

bool ring_ask_for_room(struct ring *r, size_t n)
{
    size_t room;

    r->state->wants_room = true;
    (void)ring_room(r, &room);
    return room < n;
}

bool ring_ask_for_bytes(struct ring *r, size_t n)
{
    size_t have;

    r->state->wants_bytes = true;
    (void)ring_bytes(r, &have);
    return have < n;
}
