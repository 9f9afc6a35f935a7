/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Allocation that cannot fail.
 *
 * Every size that comes from outside is checked against a limit before it gets
 * here, so running out of memory means the host is in trouble: we log and
 * abort, and the VMs, which are separate processes, live on until restart.
 */
#pragma once

#include <stddef.h>

void *mem_zalloc(size_t count, size_t size) __attribute__((malloc, alloc_size(1, 2)));
void *mem_realloc(void *p, size_t size) __attribute__((alloc_size(2)));
char *mem_strdup(const char *s) __attribute__((malloc, nonnull));
char *mem_printf(const char *fmt, ...) __attribute__((malloc, format(printf, 1, 2)));

#define mem_new(type) ((type *)mem_zalloc(1, sizeof(type)))
