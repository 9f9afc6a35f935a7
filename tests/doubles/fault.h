/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes wrong in a double of a VMM, told while it runs.
 *
 * The file "faults" in its working directory, else the one that the environment's
 * HYPEMAN_DOUBLE_FAULTS names, is read anew each time it matters. A line is a word,
 * a number, and the start of the request it is for (none: any):
 *
 *   slow-bind MS            the socket is made so much later
 *   deaf 0 [REQUEST]        never answers, and nobody else either
 *   drip MS [REQUEST]       one byte of the answer, a pause, the next
 *   half 0 [REQUEST]        half an answer, then the process dies
 *   garbage 0 [REQUEST]     answers what is no answer
 *   hold MS [REQUEST]       does nothing for so long, then carries it out; nobody else is answered
 *   park MS [REQUEST]       carries it out, and takes so long; nobody else is answered
 *   refuse 0 [REQUEST]      answers an error
 *   die CODE [REQUEST]      exits instead of answering
 *   keeps-on 0              the guest does not hear that it is to end
 */
#pragma once

#include <stdbool.h>

/* Whether it is to happen now, to this request ("" where there is none). number_out may be NULL. */
bool fault_is(const char *word, const char *request, int *number_out);

void fault_pause_ms(int ms);
