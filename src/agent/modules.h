/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loading the kernel modules of the initramfs: /modules/list (guest/modules says what is in it).
 *
 * A line is a file name, and perhaps the condition under which it is of use:
 * "fs:TYPE" if the image is of that type, else the beginning of a modalias that
 * some device on that bus must have. So a guest spends nothing on hardware that
 * it was not given. What fails to load is named on the console and passed over:
 * if it was needed, what needs it says so.
 */
#pragma once

#include "base/err.h"

int modules_load(struct err *e);
