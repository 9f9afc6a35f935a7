/* SPDX-License-Identifier: Apache-2.0 */
/* C23 <stdckdint.h> for the compilers we support today. */
#pragma once

#define ckd_add(result, a, b) __builtin_add_overflow((a), (b), (result))
#define ckd_sub(result, a, b) __builtin_sub_overflow((a), (b), (result))
#define ckd_mul(result, a, b) __builtin_mul_overflow((a), (b), (result))
