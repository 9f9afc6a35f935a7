/* SPDX-License-Identifier: Apache-2.0 */
#include "image/digest.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/mem.h"

enum { CHUNK = 256 * 1024 };

static const char prefix[] = "sha256:";
enum { PREFIX_LEN = sizeof(prefix) - 1 };

bool digest_is_valid(const char *s)
{
    return strncmp(s, prefix, PREFIX_LEN) == 0 && strlen(s) == DIGEST_LEN &&
           strspn(s + PREFIX_LEN, "0123456789abcdef") == DIGEST_HEX_LEN;
}

const char *digest_hex(const char *digest)
{
    return digest + PREFIX_LEN;
}

/* OpenSSL's contexts; SHA-256 fails only where memory does. */
struct digest {
    EVP_MD_CTX *ctx;
};

static void expect(int ok)
{
    if (!ok) {
        log_error("libcrypto cannot compute SHA-256");
        abort();
    }
}

struct digest *digest_new(void)
{
    struct digest *d = mem_new(struct digest);

    d->ctx = EVP_MD_CTX_new();
    expect(d->ctx && EVP_DigestInit_ex(d->ctx, EVP_sha256(), NULL));
    return d;
}

void digest_add(struct digest *d, const void *data, size_t len)
{
    expect(EVP_DigestUpdate(d->ctx, data, len));
}

void digest_end(struct digest *d, char out[DIGEST_SIZE])
{
    unsigned char raw[EVP_MAX_MD_SIZE];
    unsigned n = 0;

    expect(EVP_DigestFinal_ex(d->ctx, raw, &n));
    memcpy(out, prefix, PREFIX_LEN);
    for (unsigned i = 0; i < n && i < DIGEST_HEX_LEN / 2; i++)
        (void)snprintf(out + PREFIX_LEN + 2 * (size_t)i, 3, "%02x", (unsigned)raw[i]);
}

void digest_free(struct digest *d)
{
    if (!d)
        return;
    EVP_MD_CTX_free(d->ctx);
    free(d);
}

void digest_of(const void *data, size_t len, char out[DIGEST_SIZE])
{
    struct digest *d = digest_new();

    digest_add(d, data, len);
    digest_end(d, out);
    digest_free(d);
}

int digest_of_file(const struct op *op, int fd, char out[DIGEST_SIZE], struct err *e)
{
    auto_free char *chunk = mem_zalloc(CHUNK, 1);
    struct digest *d = digest_new();
    ssize_t n = 1;
    int rc = 0;

    for (off_t at = 0; rc == 0 && n > 0; at += n) {
        rc = op_sleep(op, 0, e);
        n = rc == 0 ? pread(fd, chunk, CHUNK, at) : 0;
        if (n < 0)
            rc = err_errno(e, "read");
        else
            digest_add(d, chunk, (size_t)n);
    }
    if (rc == 0)
        digest_end(d, out);
    digest_free(d);
    return rc;
}
