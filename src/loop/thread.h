/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads beside the loop's. Signals belong to the loop's signalfd, so each is born
 * with all of them blocked.
 */
#pragma once

#include <pthread.h>
#include <stddef.h>

/* 0, or what pthread_create() says. The caller joins it. */
int thread_start(pthread_t *out, size_t stack_bytes, void *(*run)(void *arg), void *arg);
