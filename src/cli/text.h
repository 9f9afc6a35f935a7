/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small texts: what is typed made fit to send, what is received made fit to
 * show. Nothing here blocks or keeps anything.
 */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include <jansson.h>

#include "base/argv.h"
#include "base/buf.h"
#include "base/err.h"

/* --- to send --- */

void url_puts(struct buf *b, const char *s); /* %XX for all but unreserved characters */

/* "/instances/<name>" and what follows. The caller frees. */
char *instance_path(const char *name, const char *rest);
char *image_path(const char *name);

/*
 * A JSON array of strings as it is, or words between blanks. NULL for an array
 * of other things and for what is not UTF-8.
 */
json_t *words_parse(const char *text);
json_t *words_from(int n, char **words);

/* "key=value" into an object. False without a key or a "=". */
bool pair_add(json_t *object, const char *pair);

/* The same for a variable; as docker has it a key alone passes our own on, if there is one. */
bool env_add(json_t *object, const char *word);

/* "running" is "Running" in the API. The caller frees. */
char *state_name(const char *typed);

/* --- to show --- */

/* A member that is a string, or "". */
const char *text_of(const json_t *object, const char *key);

/* Prints what a guest may have had a hand in: control characters become "?". */
void text_print(FILE *to, const char *s);

/* "docker.io/library/alpine:3" is "alpine:3" to people. */
const char *image_short(const char *name);

enum { AGE_SIZE = 16 };
/* "5s", "3m", "2h", "9d" since an RFC 3339 time; "" if it is none. Returns out. */
const char *age_text(const char *since, char out[AGE_SIZE]);

enum format { FORMAT_TABLE, FORMAT_JSON, FORMAT_JSONL };
bool format_parse(const char *word, enum format *out); /* NULL is a table */

/* A document, indented or (each element of an array) on a line of its own. */
void json_print(const json_t *doc, enum format format);
