/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "api/token.h"
#include "base/cleanup.h"
#include "unit.h"

static const char secret[] = "a secret";
enum { NOW = 1500 };

/* A second implementation, so that a token may say what token_sign() never would. */
static void put64(struct buf *out, const void *data, size_t len)
{
    unsigned char padded[2 * TOKEN_MAX];
    size_t n = (size_t)EVP_EncodeBlock(padded, data, (int)len);

    for (size_t i = 0; i < n && padded[i] != '='; i++) {
        char c = (char)(padded[i] == '+' ? '-' : padded[i] == '/' ? '_' : padded[i]);

        buf_append(out, &c, 1);
    }
}

static const char *forge(struct buf *out, const EVP_MD *md, const char *header, const char *claims)
{
    unsigned char mac[EVP_MAX_MD_SIZE];
    unsigned n = 0;

    buf_reset(out);
    put64(out, header, strlen(header));
    buf_puts(out, ".");
    put64(out, claims, strlen(claims));
    HMAC(md, secret, sizeof(secret) - 1, (const unsigned char *)out->data, out->len, mac, &n);
    buf_puts(out, ".");
    put64(out, mac, n);
    assert_true(buf_ok(out));
    return out->data;
}

#define HS256 "{\"alg\":\"HS256\",\"typ\":\"JWT\"}"

static void refused(const char *text, const char *with, int64_t now, const char *message)
{
    struct token_claims c = {.scopes = 77};
    struct err e = {0};

    assert_int_equal(token_verify(text, with, now, &c, &e), -1);
    assert_int_equal(e.code, ERR_UNAUTHORIZED);
    assert_string_equal(e.msg, message);
    assert_int_equal(c.scopes, 77); /* untouched on failure */
}

static void refused_claims(const char *claims, const char *message)
{
    auto_buf struct buf t = BUF(4 * TOKEN_MAX);

    refused(forge(&t, EVP_sha256(), HS256, claims), secret, NOW, message);
}

static void accepts_the_vectors_of_others(void **state)
{
    /* RFC 7515, appendix A.1 */
    static const char rfc_key[] =
        "\x03\x23\x35\x4b\x2b\x0f\xa5\xbc\x83\x7e\x06\x65\x77\x7b\xa6\x8f\x5a\xb3\x28\xe6\xf0\x54"
        "\xc9\x28\xa9\x0f\x84\xb2\xd2\x50\x2e\xbf\xd3\xfb\x5a\x92\xd2\x06\x47\xef\x96\x8a\xb4\xc3"
        "\x77\x62\x3d\x22\x3d\x2e\x21\x72\x05\x2e\x4f\x08\xc0\xcd\x9a\xf5\x67\xd0\x80\xa3";
    static const char rfc[] =
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9."
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cn"
        "VlfQ."
        "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    /* made with Python's hmac module */
    static const char hs384[] = "eyJhbGciOiAiSFMzODQiLCAidHlwIjogIkpXVCJ9."
                                "eyJzdWIiOiJhbm4iLCJleHAiOjIwMDAwMDAwMDAsInBlcm1pc3Npb25zIjpbImluc3"
                                "RhbmNlOnJlYWQiLCJpbWFnZTp3cml0ZSJdfQ."
                                "K3HO9Qpqm5tjlnIHX2t-iG6zWFQ0iK-xCUp9JuhSZZI2mE_g8ySbQPdVc3RqTsyd";
    static const char hs512[] =
        "eyJhbGciOiAiSFM1MTIiLCAidHlwIjogIkpXVCJ9."
        "eyJzdWIiOiJhbm4iLCJleHAiOjIwMDAwMDAwMDAsInBlcm1pc3Npb25zIjpbImluc3RhbmNlOnJlYWQiLCJpbWFnZT"
        "p3cml0ZSJdfQ."
        "OtTstD5UPQfFsLGftetDxPhbsvc3iAY7410etLqGcunukuiLm54fg5mYr1YA-RmYRRm03Xl3LA009mbaKHLM7g";
    struct token_claims c = {0};
    struct err e = {0};

    (void)state;
    assert_int_equal(token_verify(rfc, rfc_key, 1300819379, &c, &e), 0);
    assert_int_equal(c.expires_at, 1300819380);
    assert_int_equal(c.scopes, SCOPE_ALL);
    assert_string_equal(c.subject, "");
    refused(rfc, rfc_key, 1300819380, "invalid token");
    assert_int_equal(token_verify(hs384, secret, NOW, &c, &e), 0);
    assert_int_equal(c.scopes, SCOPE_INSTANCE_READ | SCOPE_IMAGE_WRITE);
    assert_int_equal(token_verify(hs512, secret, NOW, &c, &e), 0);
    assert_string_equal(c.subject, "ann");
}

static void signs_what_others_accept(void **state)
{
    static const char want[] = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
                               "eyJzdWIiOiJhbm4iLCJpYXQiOjEwMDAsImV4cCI6MjAwMCwicGVybWlzc2lvbnMiOls"
                               "iaW1hZ2U6cmVhZCIsInJlc291cmNlOnJlYWQiXX0."
                               "OF_367tVYxT0iTnTjhnIJhgOylV3erdoL2EZdQQ_8d8";
    const struct token_claims c = {.subject = "ann",
                                   .issued_at = 1000,
                                   .expires_at = 2000,
                                   .scopes = SCOPE_IMAGE_READ | SCOPE_RESOURCE_READ};
    auto_buf struct buf t = BUF(TOKEN_MAX);
    struct token_claims back = {0};
    struct err e = {0};

    (void)state;
    assert_int_equal(token_sign(&c, secret, &t, &e), 0);
    assert_string_equal(t.data, want);
    assert_int_equal(token_verify(t.data, secret, NOW, &back, &e), 0);
    assert_memory_equal(&back, &c, sizeof(c));
}

static void every_scope_survives_the_round_trip(void **state)
{
    (void)state;
    for (uint32_t scope = 1; scope < SCOPE_UNLIMITED; scope <<= 1) {
        auto_buf struct buf t = BUF(TOKEN_MAX);
        struct token_claims c = {.issued_at = 1, .scopes = scope};
        struct token_claims back = {0};
        struct err e = {0};
        uint32_t parsed = 0;

        assert_true(token_scope_parse(token_scope_name(scope), &parsed));
        assert_int_equal(parsed, scope);
        assert_int_equal(token_sign(&c, secret, &t, &e), 0);
        assert_int_equal(token_verify(t.data, secret, NOW, &back, &e), 0);
        assert_int_equal(back.scopes, scope);
    }
    assert_null(token_scope_name(SCOPE_ALL));
    assert_null(token_scope_name(0));
}

static void other_algorithms_are_refused(void **state)
{
    static const char *const headers[] = {"{\"alg\":\"none\",\"typ\":\"JWT\"}",
                                          "{\"alg\":\"hs256\"}",
                                          "{\"alg\":\"RS256\"}",
                                          "{\"alg\":\"ES256\"}",
                                          "{\"typ\":\"JWT\"}",
                                          "{\"alg\":256}",
                                          "{\"alg\":\"HS384\"}",
                                          "[\"HS256\"]",
                                          "\"HS256\"",
                                          "{\"alg\":\"HS256\",\"crit\":[]}",
                                          "{\"alg\":\"HS2560\"}",
                                          "{}",
                                          "{\"alg\":\"none\",\"alg\":\"HS256\"}"};
    auto_buf struct buf t = BUF(TOKEN_MAX);
    char *dot;

    (void)state;
    for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++)
        refused(forge(&t, EVP_sha256(), headers[i], "{}"), secret, NOW, "invalid token");

    /* "none" as it is meant to be written: nothing behind the last dot, or no dot */
    forge(&t, EVP_sha256(), headers[0], "{}");
    dot = strrchr(t.data, '.');
    dot[1] = '\0';
    refused(t.data, secret, NOW, "invalid token");
    dot[0] = '\0';
    refused(t.data, secret, NOW, "invalid token");
}

static void a_signature_of_another_digest_is_refused(void **state)
{
    auto_buf struct buf t = BUF(TOKEN_MAX);

    (void)state;
    refused(forge(&t, EVP_sha512(), HS256, "{}"), secret, NOW, "invalid token");
    refused(forge(&t, EVP_sha256(), "{\"alg\":\"HS512\"}", "{}"), secret, NOW, "invalid token");
}

static void any_changed_byte_is_refused(void **state)
{
    auto_buf struct buf t = BUF(TOKEN_MAX);

    (void)state;
    forge(&t, EVP_sha256(), HS256, "{\"sub\":\"ann\"}");
    for (size_t i = 0; i < t.len; i++) {
        char was = t.data[i];

        t.data[i] = was == 'A' ? 'B' : 'A';
        refused(t.data, secret, NOW, "invalid token");
        t.data[i] = was;
    }
    for (size_t len = t.len; len-- > 0;) {
        t.data[len] = '\0';
        refused(t.data, secret, NOW, "invalid token");
    }
}

static void padding_and_other_spellings_are_refused(void **state)
{
    auto_buf struct buf t = BUF(TOKEN_MAX);
    char last;

    (void)state;
    forge(&t, EVP_sha256(), HS256, "{}");
    last = t.data[t.len - 1]; /* 32 bytes end with two bits that say nothing */
    t.data[t.len - 1]++;
    refused(t.data, secret, NOW, "invalid token");
    t.data[t.len - 1] = last;
    buf_puts(&t, "=");
    refused(t.data, secret, NOW, "invalid token");
    forge(&t, EVP_sha256(), HS256, "{}");
    buf_puts(&t, ".e30");
    refused(t.data, secret, NOW, "invalid token");
}

static void another_secret_or_none_is_refused(void **state)
{
    auto_buf struct buf t = BUF(TOKEN_MAX);
    struct token_claims c = {0};
    struct err e = {0};

    (void)state;
    forge(&t, EVP_sha256(), HS256, "{}");
    assert_int_equal(token_verify(t.data, secret, NOW, &c, &e), 0);
    refused(t.data, "a secreT", NOW, "invalid token");
    refused(t.data, "", NOW, "invalid token");
    assert_int_equal(token_sign(&c, "", &t, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
}

static void times_are_held(void **state)
{
    auto_buf struct buf t = BUF(TOKEN_MAX);
    struct token_claims c = {0};
    struct err e = {0};

    (void)state;
    forge(&t, EVP_sha256(), HS256, "{\"iat\":1500,\"nbf\":1500.9,\"exp\":1501}");
    assert_int_equal(token_verify(t.data, secret, NOW, &c, &e), 0);
    refused_claims("{\"exp\":1500}", "invalid token");
    refused_claims("{\"exp\":1}", "invalid token");
    refused_claims("{\"exp\":0}", "invalid token");
    refused_claims("{\"exp\":-1}", "invalid token");
    refused_claims("{\"exp\":1e300}", "invalid token");
    refused_claims("{\"exp\":\"1501\"}", "invalid token");
    refused_claims("{\"exp\":null}", "invalid token");
    refused_claims("{\"nbf\":1501}", "invalid token");
    refused_claims("{\"iat\":1501}", "invalid token");
}

static void claims_of_the_wrong_shape_are_refused(void **state)
{
    auto_buf struct buf longest = BUF(TOKEN_MAX);

    (void)state;
    refused_claims("[]", "invalid token");
    refused_claims("{", "invalid token");
    refused_claims("{\"sub\":7}", "invalid token");
    refused_claims("{\"permissions\":\"*\"}", "invalid token");
    refused_claims("{\"permissions\":null}", "invalid token");
    refused_claims("{\"permissions\":[7]}", "invalid token");
    refused_claims("{\"permissions\":[],\"permissions\":[\"*\"]}", "invalid token");
    buf_puts(&longest, "{\"sub\":\"");
    for (int i = 0; i < TOKEN_SUBJECT_SIZE; i++)
        buf_puts(&longest, "x");
    buf_puts(&longest, "\"}");
    refused_claims(longest.data, "invalid token");
    for (int i = 0; i < 6000; i++)
        buf_puts(&longest, " ");
    refused_claims(longest.data, "invalid token");
}

static void permissions_become_scopes(void **state)
{
    static const struct {
        const char *claims;
        uint32_t scopes;
    } rows[] = {
        {"{}", SCOPE_ALL},
        {"{\"permissions\":[]}", 0},
        {"{\"permissions\":[\"*\"]}", SCOPE_ALL},
        {"{\"permissions\":[\"volume:delete\",\"ingress:write\"]}",
         SCOPE_VOLUME_DELETE | SCOPE_INGRESS_WRITE},
        {"{\"permissions\":[\"instance:*\",\"Instance:read\",\"x\",\"build:read\"]}",
         SCOPE_BUILD_READ},
    };
    auto_buf struct buf t = BUF(TOKEN_MAX);

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct token_claims c = {0};
        struct err e = {0};

        forge(&t, EVP_sha256(), HS256, rows[i].claims);
        assert_int_equal(token_verify(t.data, secret, NOW, &c, &e), 0);
        assert_int_equal(c.scopes, rows[i].scopes);
    }
}

static void tokens_of_the_registry_and_of_builders_are_refused(void **state)
{
    (void)state;
    refused_claims("{\"repos\":[]}", "invalid token type");
    refused_claims("{\"scope\":\"pull\"}", "invalid token type");
    refused_claims("{\"build_id\":\"b1\"}", "invalid token type");
    refused_claims("{\"sub\":\"builder-7\"}", "invalid token type");
}

static void the_header_must_be_a_bearer_token(void **state)
{
    static const struct {
        const char *value;
        const char *token;
        const char *message;
    } rows[] = {
        {NULL, NULL, "authorization header required"},
        {"", NULL, "authorization header required"},
        {"Bearer a.b.c", "a.b.c", NULL},
        {"bearer a.b.c", "a.b.c", NULL},
        {"Basic a.b.c", NULL, "invalid authorization header format"},
        {"Bearer", NULL, "invalid authorization header format"},
        {"Bearer ", NULL, "invalid authorization header format"},
        {"Bearer a b", NULL, "invalid authorization header format"},
        {"a.b.c", NULL, "invalid authorization header format"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct err e = {0};
        const char *token = token_from_header(rows[i].value, &e);

        if (rows[i].token)
            assert_string_equal(token, rows[i].token);
        else
            assert_null(token);
        if (rows[i].message)
            assert_string_equal(e.msg, rows[i].message);
    }
}

static void a_secret_file_loses_its_line_end_and_nothing_else(void **state)
{
    static const struct {
        const char *content;
        size_t len;
        const char *secret;
    } rows[] = {{"s3cret\n", 7, "s3cret"},
                {" s3 cret \r\n", 11, " s3 cret "},
                {"s3cret", 6, "s3cret"},
                {"", 0, NULL},
                {"\n", 1, NULL},
                {"a\0b", 3, NULL}};
    char path[] = "/tmp/token-test-XXXXXX";
    auto_close int fd = mkostemp(path, O_CLOEXEC);
    struct err missing = {0};
    auto_buf struct buf none = BUF(64);

    (void)state;
    assert_true(fd >= 0);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        auto_buf struct buf out = BUF(64);
        struct err e = {0};

        assert_int_equal(ftruncate(fd, 0), 0);
        assert_int_equal(pwrite(fd, rows[i].content, rows[i].len, 0), rows[i].len);
        assert_int_equal(token_secret_read(path, &out, &e), rows[i].secret ? 0 : -1);
        if (rows[i].secret)
            assert_string_equal(out.data, rows[i].secret);
    }
    assert_int_equal(unlink(path), 0);
    assert_int_equal(token_secret_read(path, &none, &missing), -1);
    assert_non_null(strstr(missing.msg, path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        checked_test(accepts_the_vectors_of_others),
        checked_test(signs_what_others_accept),
        checked_test(every_scope_survives_the_round_trip),
        checked_test(other_algorithms_are_refused),
        checked_test(a_signature_of_another_digest_is_refused),
        checked_test(any_changed_byte_is_refused),
        checked_test(padding_and_other_spellings_are_refused),
        checked_test(another_secret_or_none_is_refused),
        checked_test(times_are_held),
        checked_test(claims_of_the_wrong_shape_are_refused),
        checked_test(permissions_become_scopes),
        checked_test(tokens_of_the_registry_and_of_builders_are_refused),
        checked_test(the_header_must_be_a_bearer_token),
        checked_test(a_secret_file_loses_its_line_end_and_nothing_else),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
