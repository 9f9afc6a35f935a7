/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/qmp_line.h"

#include <string.h>

static int understand(json_t *root, struct qmp_line *out)
{
    const json_t *id = json_object_get(root, "id");
    const json_t *error = json_object_get(root, "error");

    out->id = json_integer_value(id);
    if (json_is_object(json_object_get(root, "QMP"))) {
        out->kind = QMP_GREETING;
        return 0;
    }
    if (json_is_string(json_object_get(root, "event"))) {
        out->kind = QMP_EVENT;
        out->event = json_string_value(json_object_get(root, "event"));
        out->data = json_object_get(root, "data");
        return 0;
    }
    if (json_is_object(error)) {
        out->kind = QMP_ERROR;
        out->desc = qmp_text(error, "desc");
        return 0;
    }
    out->kind = QMP_RETURN;
    out->data = json_object_get(root, "return");
    return out->data ? 0 : -1;
}

int qmp_line_parse(const char *text, size_t len, struct qmp_line *out, struct err *e)
{
    struct qmp_line line = {.root = parse_json(text, len, e)};

    if (!line.root)
        return -1;
    if (understand(line.root, &line) < 0) {
        qmp_line_fini(&line);
        return err_set(e, ERR_INVALID, "neither a greeting, an event nor an answer");
    }
    *out = line;
    return 0;
}

void qmp_line_fini(struct qmp_line *line)
{
    json_decref(line->root);
    *line = (struct qmp_line){0};
}

const char *qmp_text(const json_t *data, const char *member)
{
    const char *text = json_string_value(json_object_get(data, member));

    return text ? text : "";
}

static const struct {
    const char *name;
    enum vmm_status status;
} states[] = {
    {"running", VMM_STATUS_RUNNING},
    {"prelaunch", VMM_STATUS_CREATED},
    {"inmigrate", VMM_STATUS_CREATED},
    {"paused", VMM_STATUS_PAUSED},
    {"postmigrate", VMM_STATUS_PAUSED},
    {"finish-migrate", VMM_STATUS_PAUSED},
    {"save-vm", VMM_STATUS_PAUSED},
    {"restore-vm", VMM_STATUS_PAUSED},
    {"suspended", VMM_STATUS_PAUSED},
    {"io-error", VMM_STATUS_PAUSED},
    {"debug", VMM_STATUS_PAUSED},
    {"watchdog", VMM_STATUS_PAUSED},
    {"shutdown", VMM_STATUS_SHUTDOWN},
    {"guest-panicked", VMM_STATUS_SHUTDOWN},
    {"internal-error", VMM_STATUS_SHUTDOWN},
};

enum vmm_status qmp_status(const json_t *value)
{
    const char *name = qmp_text(value, "status");

    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        if (strcmp(states[i].name, name) == 0)
            return states[i].status;
    }
    return VMM_STATUS_UNKNOWN;
}
