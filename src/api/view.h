/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An instance as the API shows it (contract 2.6 and 2.13), as text that is kept.
 *
 * Two numbers in it go on while the row does not change. They have a fixed width (the
 * milliseconds are padded with blanks in front, which JSON allows), and the two
 * row_text_put_*() write them anew into a copy.
 *
 * Loop thread; pure functions of the row.
 */
#pragma once

#include "base/buf.h"
#include "vm/instance.h"

struct row_text *instance_show(const struct instance *row); /* for instance_table.show */

/* copy: begins with what the row's text holds. */
void row_text_put_phase(char *copy, const struct instance *row, int64_t now_us);
void row_text_put_observed(char *copy, const struct instance *row);

/* The row's text, up to date. */
void instance_view(struct buf *out, const struct instance_table *t, struct instance *row);

/* "the VMM does not answer since ..."; NULL unless the state is Unknown. */
const char *instance_state_error(const struct instance *row, char *out, size_t size);
