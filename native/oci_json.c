/* See oci_json.h. */
#include "oci_json.h"

/* Once something is bad, `at` may be behind the end. */
static char peek(struct json *json)
{
    if (json->bad)
        return '\0';
    while (*json->at == ' ' || *json->at == '\t' || *json->at == '\n' || *json->at == '\r')
        json->at++;
    return *json->at;
}

static int take(struct json *json, char c)
{
    if (peek(json) != c || c == '\0')
        return 0;
    json->at++;
    return 1;
}

static int take_word(struct json *json, const char *word)
{
    const size_t size = str_len(word);

    (void)peek(json);
    for (size_t i = 0; i < size; i++)
        if (json->bad || json->at[i] != word[i])
            return 0;
    json->at += size;
    return 1;
}

void json_open(struct json *json, char open)
{
    json->bad |= !take(json, open);
}

int json_more(struct json *json, char close, unsigned *count)
{
    if (json->bad || take(json, close))
        return 0;
    if (*count > 0)
        json->bad |= !take(json, ',') || peek(json) == close;
    *count += !json->bad;
    return !json->bad;
}

const char *json_name(struct json *json, size_t *size)
{
    const char *start;

    json->bad |= !take(json, '"');
    start = json->at;
    while (!json->bad && *json->at != '"') {
        json->bad |= *json->at == '\\' ? !json->known || json->at[1] == '\0' : (unsigned char)*json->at < ' ';
        json->at += *json->at == '\\' ? 2 : 1;
    }
    *size = (size_t)(json->at - start);
    if (!json->bad)
        json->at++;
    json->bad |= !take(json, ':');
    return start;
}

/* Neither NUL nor half of a pair of surrogates. */
static void take_code(struct json *json)
{
    unsigned code = 0;

    for (int i = 0; i < 4; i++, json->at++) {
        const char c = *json->at, small = (char)(c | 0x20);

        if (c >= '0' && c <= '9')
            code = code * 16 + (unsigned)(c - '0');
        else if (small >= 'a' && small <= 'f')
            code = code * 16 + (unsigned)(small - 'a' + 10);
        else
            json->bad = 1;
        if (json->bad)
            return;
    }
    json->bad |= code == 0 || (code >= 0xd800 && code < 0xe000);
    if (code >= 0x800)
        *json->out++ = (char)(0xe0 | code >> 12);
    if (code >= 0x80) {
        *json->out++ = (char)(code >= 0x800 ? 0x80 | (code >> 6 & 0x3f) : 0xc0 | code >> 6);
        *json->out++ = (char)(0x80 | (code & 0x3f));
    } else
        *json->out++ = (char)code;
}

static void take_escape(struct json *json)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char c = *json->at++;

    if (c == 'u') {
        take_code(json);
        return;
    }
    for (size_t i = 0; i < sizeof from - 1; i++)
        if (c == from[i]) {
            *json->out++ = to[i];
            return;
        }
    json->bad = 1;
}

char *json_string(struct json *json)
{
    char *start = json->out;

    json->bad |= !take(json, '"');
    while (!json->bad && *json->at != '"') {
        const unsigned char c = (unsigned char)*json->at++;

        if (c == '\\')
            take_escape(json);
        else if (c < ' ' || (c >= 0x80 && !json->known)) /* whether that is UTF-8 is a question of its own */
            json->bad = 1;
        else
            *json->out++ = (char)c;
    }
    if (json->bad)
        return 0;
    json->at++;
    *json->out++ = '\0';
    return start;
}

uint64_t json_number(struct json *json, uint64_t most)
{
    uint64_t value = 0;
    const char *start, first = peek(json);

    for (start = json->at; !json->bad && *json->at >= '0' && *json->at <= '9'; json->at++) {
        const unsigned digit = (unsigned)(*json->at - '0');

        json->bad |= value > (most - digit) / 10 || digit > most;
        value = value * 10 + digit;
    }
    if (json->bad)
        return 0;
    json->bad = json->at == start || (first == '0' && json->at - start > 1) || *json->at == '.' || (*json->at | 0x20) == 'e';
    return json->bad ? 0 : value;
}

int json_true(struct json *json)
{
    const int yes = take_word(json, "true");

    json->bad |= !yes && !take_word(json, "false");
    return yes;
}

int json_null(struct json *json)
{
    return take_word(json, "null");
}

/* Goes by quotes and brackets: for what is known to be JSON, or need not be. */
void json_skip(struct json *json)
{
    const char *start;
    unsigned depth = 0;

    do {
        switch (peek(json)) {
        case '\0':
            json->bad = 1;
            return;
        case '"':
            for (json->at++; *json->at != '"' && *json->at != '\0'; json->at++)
                json->at += json->at[0] == '\\' && json->at[1] != '\0';
            json->at += *json->at == '"';
            break;
        case '[':
        case '{':
            depth++;
            json->at++;
            break;
        case ']':
        case '}':
            depth--;
            json->at++;
            break;
        case ',':
        case ':':
            json->at++;
            break;
        default:
            start = json->at;
            while ((*json->at >= '0' && *json->at <= '9') || (*json->at >= 'a' && *json->at <= 'z') || *json->at == '-' ||
                   *json->at == '+' || *json->at == '.' || *json->at == 'E')
                json->at++;
            json->bad = json->at == start;
        }
    } while (depth > 0 && !json->bad);
}

const char *json_text(struct json *json, size_t *size)
{
    const char *start;

    (void)peek(json);
    start = json->at;
    json_skip(json);
    *size = (size_t)(json->at - start);
    return start;
}

int json_ended(struct json *json)
{
    return peek(json) == '\0' && !json->bad && json->at == json->end;
}
