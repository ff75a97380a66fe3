#include "config_table.h"

#include <string.h>

/* The page is docs/config.md too, to the letter; tests/base/test_config_table.c compares the two. */
static const char introduction[] =
    "# Configuration\n"
    "\n"
    "What `mpt-ddp --config-help` prints. A configuration is a text of sections:\n"
    "\n"
    "```\n"
    "threads = 2\n"
    "data  { train = \"kjv_train.bin\"  val = \"kjv_val.bin\" }   # a comment\n"
    "train { steps = 700  lr = 1e-3\n"
    "        schedule = cosine }\n"
    "```\n"
    "\n"
    "- Pairs `key = value` are parted by blanks or line ends. Only `#` starts a comment, after a "
    "blank.\n"
    "- Quotes, `\"` or `'`, are needed round values that hold blanks or any of `= { } ( ) , ; #`. "
    "Within them `\\` is\n"
    "  written `\\\\`. Nothing is replaced: there are no variables, and no file includes another.\n"
    "- A key or a section that comes twice, an unknown key, a value of the wrong type or out of "
    "range and a value whose\n"
    "  feature is not built are errors: one line that names file, line, key, what is wrong and "
    "what would be right; the\n"
    "  program exits with code 2.\n"
    "- `--set section.key=value` on the command line (`--set key=value` for a top-level key) "
    "changes one key; of two for\n"
    "  the same key the later holds.\n"
    "- Batches count sequences of `data.sequence` tokens. Relative paths start at the working "
    "directory.\n"
    "- Values in parentheses are not built yet, or not in this build.\n";

/* The words of a row, those that are not built in parentheses. */
static void write_words(FILE *out, const mpt_config_row_t *row)
{
    for (const mpt_config_word_t *word = row->words; word->word; word++) {
        const char *separator = word == row->words ? "" : ", ";
        fprintf(out, word->built ? "%s`%s`" : "%s(`%s`)", separator, word->word);
    }
}

static void write_type(FILE *out, const mpt_config_row_t *row)
{
    char type[512];
    if (row->type == MPT_CONFIG_WORD) {
        write_words(out, row);
        return;
    }
    mpt_config_describe(row, type, sizeof type);
    if (row->flags & MPT_CONFIG_DEFAULT_ONLY)
        fprintf(out, "`%s` (%s)", row->text, type);
    else
        fputs(type, out);
}

static void write_row(FILE *out, const mpt_config_row_t *row)
{
    int missing = (row->flags & MPT_CONFIG_REQUIRED) && !row->text[0];
    fprintf(out, "| `%s` | ", row->key);
    write_type(out, row);
    if (missing)
        fprintf(out, " | none, must be given | ");
    else
        fprintf(out, " | `%s` | ", row->text[0] ? row->text : "\"\"");
    fprintf(out, "%s |\n", row->help);
}

static void write_environment(FILE *out)
{
    fprintf(out, "\n## Environment\n\nFor tests and trouble; no run needs them.\n"
                 "\n| variable | meaning |\n| --- | --- |\n");
    for (int i = 0; i < mpt_config_variable_count(); i++)
        fprintf(out, "| `%s` | %s |\n", mpt_config_variable(i)->name, mpt_config_variable(i)->help);
}

void mpt_config_write_markdown(FILE *out)
{
    const char *section = NULL;
    fputs(introduction, out);
    for (int i = 0; i < mpt_config_row_count(); i++) {
        const mpt_config_row_t *row = mpt_config_row(i);
        if (!section || strcmp(section, row->section) != 0) {
            section = row->section;
            fprintf(out, section[0] ? "\n## `%s`\n" : "\n## Top level%s\n", section);
            fprintf(out, "\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
        }
        write_row(out, row);
    }
    write_environment(out);
}
