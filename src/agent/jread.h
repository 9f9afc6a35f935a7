/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading JSON in the guest, where jansson is too large: a cursor over text that our own host
 * wrote.
 *
 * The caller asks for what it expects, in the order of the text; a mismatch
 * marks the cursor bad, after which everything reads as empty, and the one who
 * uses the result asks jread_done() once. Strict: UTF-8, no NUL, integers only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/argv.h"

enum { JREAD_DEPTH = 16 };

struct jread {
    const char *p;
    const char *end;
    int depth;
    bool first; /* nothing has been read since the last opening bracket */
    bool bad;
};

#define JREAD(text, len) ((struct jread){.p = (text), .end = (text) + (len)})

/*
 * The members of an object: for (char *key; (key = jread_key(j)); free(key)), and of an array:
 * while (jread_item(j)). Each value must be read or skipped, and the loop not be left early.
 */
void jread_object(struct jread *j);
char *jread_key(struct jread *j);
void jread_array(struct jread *j);
bool jread_item(struct jread *j);

char *jread_str(struct jread *j);              /* the caller frees; NULL when it is not a string */
void jread_text(struct jread *j, char **slot); /* the same into a place that may hold one already */
int64_t jread_int(struct jread *j);
bool jread_bool(struct jread *j);
void jread_list(struct jread *j, struct argv *to); /* an array of texts */
void jread_skip(struct jread *j);

bool jread_done(struct jread *j); /* all of the text was read and was good */
