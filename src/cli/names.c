/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/names.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

static const char *const adjectives[64] = {
    "able",   "agile", "amber",  "bold",  "brave", "brief", "bright", "brisk", "broad", "calm",
    "clean",  "clear", "clever", "cool",  "crisp", "deep",  "eager",  "early", "easy",  "even",
    "fair",   "fast",  "fine",   "firm",  "fleet", "fond",  "fresh",  "full",  "glad",  "gold",
    "good",   "grand", "great",  "green", "happy", "hardy", "keen",   "kind",  "large", "light",
    "lively", "loyal", "lucid",  "lucky", "merry", "mild",  "neat",   "noble", "proud", "pure",
    "quick",  "quiet", "rapid",  "ready", "red",   "sharp", "silent", "smart", "snug",  "solid",
    "stout",  "sunny", "swift",  "warm",
};

static const char *const nouns[64] = {
    "alder", "ant",    "aspen",  "badger", "beech", "birch", "bison",  "brook", "cedar", "cliff",
    "cloud", "comet",  "coral",  "crane",  "creek", "crow",  "delta",  "dune",  "eagle", "elk",
    "elm",   "falcon", "fern",   "finch",  "fjord", "fox",   "geyser", "glade", "hare",  "hawk",
    "heron", "hill",   "ibex",   "island", "jay",   "kite",  "lake",   "larch", "lark",  "lynx",
    "maple", "marten", "meadow", "moon",   "moose", "oak",   "otter",  "owl",   "pine",  "puma",
    "raven", "reef",   "river",  "robin",  "sable", "seal",  "shore",  "stag",  "stork", "swan",
    "tern",  "tiger",  "willow", "wren",
};

void name_invent(bool with_number, char out[NAME_SIZE])
{
    uint16_t dice[3];
    int n;

    if (getrandom(dice, sizeof(dice), 0) != (ssize_t)sizeof(dice))
        abort();
    n = snprintf(out, NAME_SIZE, "%s-%s", adjectives[dice[0] % 64], nouns[dice[1] % 64]);
    if (with_number)
        (void)snprintf(out + n, NAME_SIZE - (size_t)n, "-%u", dice[2] % 1000U);
}
