/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Columns that are as wide as what is in them. Cells are copied; colours are
 * used on a terminal only, and not where NO_COLOR is set.
 */
#pragma once

#include <stddef.h>

enum colour { COLOUR_NONE, COLOUR_GREEN, COLOUR_YELLOW, COLOUR_RED, COLOUR_DIM };

struct table {
    struct table_cell {
        char *text;
        enum colour colour;
    } * cells; /* row by row, the headings first */
    size_t n;
    size_t capacity;
    size_t n_columns;
};
#define auto_table __attribute__((cleanup(table_free)))

void table_begin(struct table *t, size_t n_columns, const char *const *headings);
void table_add(struct table *t, const char *text, enum colour colour);
void table_print(const struct table *t); /* on standard output */
void table_free(struct table *t);
