/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens as clients send them. The input's content is also tried as claims that are well signed. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/token.h"
#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = mem_zalloc(size + 1, 1);
    struct token_claims claims = {0};
    struct err e = {0};

    memcpy(text, data, size);
    if (token_verify(text, "another secret", 1500, &claims, &e) == 0)
        abort(); /* nothing in the corpus is signed with it */
    err_clear(&e);
    if (token_verify(text, "a secret", 1500, &claims, &e) == 0) {
        auto_buf struct buf again = BUF(TOKEN_MAX);
        struct token_claims same = {0};

        if (claims.scopes & ~(uint32_t)SCOPE_ALL || strlen(claims.subject) >= TOKEN_SUBJECT_SIZE)
            abort();
        if (token_sign(&claims, "a secret", &again, &e) == 0 &&
            token_verify(buf_str(&again), "a secret", 1500, &same, &e) == 0 &&
            same.scopes != claims.scopes)
            abort();
    }
    err_clear(&e);
    (void)token_from_header(text, &e);
    free(text);
    return 0;
}
