/* SPDX-License-Identifier: Apache-2.0 */
/* Names for those who give none: "calm-otter". The kernel's random pool picks. */
#pragma once

#include "base/id.h"

/* with_number: "calm-otter-417", for when the plain one was taken. */
void name_invent(bool with_number, char out[NAME_SIZE]);
