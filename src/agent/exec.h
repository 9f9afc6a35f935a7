/* SPDX-License-Identifier: Apache-2.0 */
/* A command that somebody outside asked for: FRAME_EXEC. */
#pragma once

#include "agent/stream.h"

/* Starts it, or says why not with a shell's code. */
int exec_start(struct stream *st, const char *json, size_t len, int *code_out, struct err *e);
void exec_resize(struct stream *st, uint32_t rows, uint32_t cols);
