/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * A miscellaneous resource for machines without processors that encrypt the memory of virtual machines.
 *
 * The kernel's own user of the controller `misc` is KVM, which charges a key of the processor ("sev") to the cgroup that
 * starts an encrypted machine.  This one lends its keys to whoever writes to /dev/misc_charge: each write charges one to
 * the cgroup of who opened the file, or fails as the controller says; all go back when the file is closed.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/misc_cgroup.h>
#include <linux/module.h>
#include <linux/slab.h>

static unsigned long capacity = 8;
module_param(capacity, ulong, 0444);

struct loan {
    struct misc_cg *group;
    atomic_t keys;
};

static int charge_open(struct inode *inode, struct file *file)
{
    struct loan *loan = kzalloc(sizeof(*loan), GFP_KERNEL);

    if (!loan)
        return -ENOMEM;
    loan->group = get_current_misc_cg();
    file->private_data = loan;
    return 0;
}

static ssize_t charge_write(struct file *file, const char __user *text, size_t size, loff_t *offset)
{
    struct loan *loan = file->private_data;
    int error = misc_cg_try_charge(MISC_CG_RES_SEV, loan->group, 1);

    if (error)
        return error;
    atomic_inc(&loan->keys);
    return size;
}

static int charge_release(struct inode *inode, struct file *file)
{
    struct loan *loan = file->private_data;

    misc_cg_uncharge(MISC_CG_RES_SEV, loan->group, atomic_read(&loan->keys));
    put_misc_cg(loan->group);
    kfree(loan);
    return 0;
}

static const struct file_operations charge_operations = {
    .owner = THIS_MODULE,
    .open = charge_open,
    .write = charge_write,
    .release = charge_release,
    .llseek = noop_llseek,
};

static struct miscdevice charge_device = {
    .minor = MISC_DYNAMIC_MINOR,
    .name = "misc_charge",
    .fops = &charge_operations,
    .mode = 0666,
};

static int __init charge_init(void)
{
    int error = misc_cg_set_capacity(MISC_CG_RES_SEV, capacity);

    return error ? error : misc_register(&charge_device);
}

static void __exit charge_exit(void)
{
    misc_deregister(&charge_device);
    misc_cg_set_capacity(MISC_CG_RES_SEV, 0);
}

module_init(charge_init);
module_exit(charge_exit);
MODULE_DESCRIPTION("charges of a miscellaneous resource, for tests");
MODULE_LICENSE("Dual MIT/GPL");
