/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is left when the layers of an image are laid over one another.
 *
 * Nothing is unpacked for it: the names of all entries are laid over one another
 * in memory, lowest layer first, exactly as unpacking them would: whiteouts and
 * opaque directories remove, a path is followed through the symlinks that stand
 * there at that moment, a hard link shares its file. What survives is known by
 * the place of its entry (layer, number), and a second reading of the layers
 * writes it. A hard link whose target a later layer removes needs no care in
 * this form: a file lives as long as one of its names does.
 *
 * Layers are untrusted: names that lead out are refused, and depth, lengths and
 * numbers are capped. A value without locks that never waits.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <archive_entry.h>

#include "base/err.h"

struct merge;

struct merge *merge_new(void);
void merge_free(struct merge *m);

void merge_begin_layer(struct merge *m);

/* The next entry of the layer. What cannot be meant is ERR_INVALID. */
int merge_add(struct merge *m, struct archive_entry *entry, struct err *e);

/*
 * The surviving names of entry "number" of a layer, both from 0: fn is called for
 * each, first is NULL for the one under which it is written. No call for an entry
 * that is hidden, and for one that was not there when the layer was added.
 */
typedef int merge_name_fn(void *arg, const char *path, const char *first, struct err *e);
int merge_each_name(const struct merge *m, size_t layer, size_t number, merge_name_fn *fn,
                    void *arg, struct err *e);

/* Whether anything of the layer survives. */
bool merge_layer_is_seen(const struct merge *m, size_t layer);

/* The directories that have no entry of their own, parents first. "" is the root. */
int merge_each_implied(const struct merge *m, merge_name_fn *fn, void *arg, struct err *e);
