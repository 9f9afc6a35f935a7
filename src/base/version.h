/* SPDX-License-Identifier: Apache-2.0 */
/* What this build is: the project's version, and the commit it was made from ("unknown" outside
 * of a git checkout). */
#pragma once

extern const char version_number[];
extern const char version_commit[];
