/* SPDX-License-Identifier: Apache-2.0 */
/* Intrusive doubly linked list. A link that is not on a list points to itself. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *next;
    struct list *prev;
};

/* The struct that "ptr" is the "member" of. The compiler checks that the types agree. */
#define container_of(ptr, type, member)                                                            \
    ((type *)((char *)CHECK_TYPE(ptr, type, member) - offsetof(type, member)))
#define CHECK_TYPE(ptr, type, member) (1 ? (ptr) : (__typeof__(((type *)0)->member) *)NULL)

static inline void list_init(struct list *l)
{
    l->next = l;
    l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}

static inline void list_append(struct list *head, struct list *l)
{
    l->prev = head->prev;
    l->next = head;
    head->prev->next = l;
    head->prev = l;
}

static inline void list_remove(struct list *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    list_init(l);
}
