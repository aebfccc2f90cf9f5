/* Bounds check of a plan; the only part of the helper that reads unchecked input. */
#ifndef PYRUN_DECODE_H
#define PYRUN_DECODE_H

#include <stddef.h>
#include <stdint.h>

#include "plan.h"

/* Operations that the supervisor carries out before it clones. */
static inline int before_clone(const struct plan_op *op)
{
    return op->code == OP_LIMIT || op->code == OP_DEVICES || op->code == OP_JOIN;
}

/* 0 when every offset, count and terminator of the plan is good, -1 for a bad frame, else the
 * number (from 1) of the first bad operation.  `data` must be aligned to 8 bytes. */
int plan_check(const void *data, size_t size);

#endif
