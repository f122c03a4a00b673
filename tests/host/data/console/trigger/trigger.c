// SPDX-License-Identifier: GPL-2.0-only
/*
 * Makes a kernel complain in a chosen way: insmod trigger.ko what=NAME.
 *
 * The logs beside this directory were produced with it; see ../README. Loading
 * it always fails (with EAGAIN), so that it can be loaded again.
 */
#include <linux/completion.h>
#include <linux/debug_locks.h>
#include <linux/delay.h>
#include <linux/etherdevice.h>
#include <linux/gfp.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/netdevice.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/rtnetlink.h>
#include <linux/sched/signal.h>
#include <linux/skbuff.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/spinlock.h>
#include <linux/timer.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

static char *what = "";
module_param(what, charp, 0);
static int seconds = 10;
module_param(seconds, int, 0);

static bool lockdep;
module_param(lockdep, bool, 0);
MODULE_PARM_DESC(lockdep, "turn lockdep on again, if its first report has turned it off");

static DEFINE_MUTEX(lock_a);
static DEFINE_MUTEX(lock_b);
static DEFINE_SPINLOCK(spin_a);
static DEFINE_RAW_SPINLOCK(raw_a);
static DEFINE_RAW_SPINLOCK(raw_b);
static void *volatile sink;
static volatile long zero;
static DECLARE_COMPLETION(finished);

static void busy(void)
{
	unsigned long end = jiffies + seconds * HZ;

	while (time_before(jiffies, end))
		cpu_relax();
}

/* Locks. */

static void t_circular(void)
{
	mutex_lock(&lock_a);
	mutex_lock(&lock_b);
	mutex_unlock(&lock_b);
	mutex_unlock(&lock_a);
	mutex_lock(&lock_b);
	mutex_lock(&lock_a);
	mutex_unlock(&lock_a);
	mutex_unlock(&lock_b);
}

static void t_recursive(void)
{
	static struct mutex locks[2];
	int i;

	for (i = 0; i < 2; i++)
		mutex_init(&locks[i]);
	mutex_lock(&locks[0]);
	mutex_lock(&locks[1]);
	mutex_unlock(&locks[1]);
	mutex_unlock(&locks[0]);
}

static void on_timer(struct timer_list *timer)
{
	spin_lock(&spin_a);
	spin_unlock(&spin_a);
	complete(&finished);
}

static atomic_t stage;

/* Makes raw_a safe, and keeps its CPU from anything else until the report is out. */
static void in_hardirq(void *unused)
{
	if (lockdep)
		debug_locks = 1;
	raw_spin_lock(&raw_a);
	raw_spin_unlock(&raw_a);
	atomic_set(&stage, 1);
	while (atomic_read(&stage) == 1)
		cpu_relax();
}

static void with_safe_lock(void (*trigger)(void))
{
	int cpu = get_cpu();

	smp_call_function_single(!cpu, in_hardirq, NULL, 0);
	while (atomic_read(&stage) != 1)
		cpu_relax();
	trigger();
	atomic_set(&stage, 2);
	put_cpu();
}

static void take_with_irqs_on(void)
{
	raw_spin_lock(&raw_a);
	raw_spin_unlock(&raw_a);
}

static void t_inconsistent(void)
{
	with_safe_lock(take_with_irqs_on);
}

static void take_unsafe_below(void)
{
	unsigned long flags;

	raw_spin_lock(&raw_b);
	raw_spin_unlock(&raw_b);
	raw_spin_lock_irqsave(&raw_a, flags);
	raw_spin_lock(&raw_b);
	raw_spin_unlock(&raw_b);
	raw_spin_unlock_irqrestore(&raw_a, flags);
}

static void t_irq_unsafe(void)
{
	with_safe_lock(take_unsafe_below);
}

static void t_held_freed(void)
{
	struct mutex *lock = kmalloc(sizeof(*lock), GFP_KERNEL);

	mutex_init(lock);
	mutex_lock(lock);
	kfree(lock);
}

static int exits_locked(void *unused)
{
	complete(&finished);
	if (lockdep)
		debug_locks = 1;
	mutex_lock(&lock_a);
	return 0;
}

static void t_held_exit(void)
{
	kthread_run(exits_locked, NULL, "exits-locked");
	wait_for_completion(&finished);
	msleep(200);
}

static void t_held_user(void)
{
	mutex_lock(&lock_a);
}

static void t_rcu_usage(void)
{
	static void __rcu *pointer;

	sink = rcu_dereference(pointer);
}

static void t_unbalance(void)
{
	mutex_lock(&lock_a);
	mutex_unlock(&lock_a);
	mutex_unlock(&lock_a);
}

static void t_wait_context(void)
{
	raw_spin_lock(&raw_a);
	spin_lock(&spin_a);
	spin_unlock(&spin_a);
	raw_spin_unlock(&raw_a);
}

static void t_non_static(void)
{
	spinlock_t *lock = kzalloc(sizeof(*lock), GFP_KERNEL);

	spin_lock(lock);
	spin_unlock(lock);
	kfree(lock);
}

static void t_atomic_sleep(void)
{
	spin_lock(&spin_a);
	mutex_lock(&lock_a);
	mutex_unlock(&lock_a);
	spin_unlock(&spin_a);
}

static void t_atomic_schedule(void)
{
	spin_lock(&spin_a);
	schedule_timeout_uninterruptible(2);
	spin_unlock(&spin_a);
}

static void t_preemptible(void)
{
	pr_info("on CPU %d\n", smp_processor_id());
}

/* What does not go on. */

static void t_soft_lockup(void)
{
	preempt_disable();
	busy();
	preempt_enable();
}

static void t_rcu_stall(void)
{
	rcu_read_lock();
	preempt_disable();
	busy();
	preempt_enable();
	rcu_read_unlock();
}

static int sleeps_deep(void *unused)
{
	schedule_timeout_uninterruptible(seconds * HZ);
	complete(&finished);
	return 0;
}

static void t_hung_task(void)
{
	kthread_run(sleeps_deep, NULL, "sleeps-deep");
	wait_for_completion(&finished);
}

static void busy_work(struct work_struct *work)
{
	busy();
}

static void t_workqueue(void)
{
	static DECLARE_WORK(work, busy_work);
	static DECLARE_WORK(behind, busy_work);

	schedule_work_on(1, &work);
	schedule_work_on(1, &behind);
	flush_work(&behind);
}

/* Memory. */

static void t_oob(void)
{
	char *p = kmalloc(40, GFP_KERNEL);

	OPTIMIZER_HIDE_VAR(p);
	sink = p;
	p[40] = 1;
	kfree(p);
}

static void t_uaf(void)
{
	char *p = kmalloc(100, GFP_KERNEL);

	sink = p;
	kfree(p);
	zero = ((volatile char *)sink)[8];
}

static void t_double_free(void)
{
	char *p = kmalloc(64, GFP_KERNEL);

	kfree(p);
	kfree(p);
}

static void t_stack_oob(void)
{
	volatile char array[8];
	volatile int index = 8 + zero;

	array[index] = 1;
}

static void t_leak(void)
{
	int i;

	for (i = 0; i < 5; i++)
		sink = kmalloc(333, GFP_KERNEL);
	sink = NULL;
}

static void t_refcount(void)
{
	static refcount_t count = REFCOUNT_INIT(1);

	if (refcount_dec_and_test(&count))
		refcount_dec(&count);
}

static void t_list_add(void)
{
	static LIST_HEAD(head);
	static struct list_head one, two;

	list_add(&one, &head);
	head.next = &two;
	list_add(&two, &head);
}

static void t_list_del(void)
{
	static LIST_HEAD(head);
	static struct list_head one;

	list_add(&one, &head);
	one.prev->next = NULL;
	list_del(&one);
}

static void t_bad_page(void)
{
	struct page *page = alloc_page(GFP_KERNEL);

	page->mapping = (void *)page;
	__free_page(page);
}

static void t_slab_redzone(void)
{
	char *p = kmalloc(60, GFP_KERNEL);

	OPTIMIZER_HIDE_VAR(p);
	p[64] = 'x';
	p[66] = 'x';
	kfree(p);
}

static void t_slab_twice(void)
{
	char *p = kmalloc(64, GFP_KERNEL);

	kfree(p);
	kfree(p);
}

static void t_slab_destroy(void)
{
	struct kmem_cache *cache = kmem_cache_create("trigger-cache", 200, 0, 0, NULL);

	sink = kmem_cache_alloc(cache, GFP_KERNEL);
	kmem_cache_destroy(cache);
}

static void t_page_alloc(void)
{
	static struct page *pages[4096];
	int i;

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		pages[i] = alloc_pages(GFP_NOWAIT, 9);
		if (!pages[i])
			break;
	}
	while (i--)
		__free_pages(pages[i], 9);
}

static void t_vmalloc(void)
{
	sink = vmalloc(1ull << 45);
}

static void t_odebug(void)
{
	struct timer_list *timer = kmalloc(sizeof(*timer), GFP_KERNEL);

	timer_setup(timer, on_timer, 0);
	mod_timer(timer, jiffies + 1000 * HZ);
	kfree(timer);
}

/* Faults. */

static void t_null(void)
{
	*(volatile long *)zero = 1;
}

static void t_gpf(void)
{
	*(volatile long *)(0xdead000000000100ull + zero) = 1;
}

static void t_paging(void)
{
	*(volatile long *)(0xffffc8fffffff000ull + zero) = 1;
}

static void t_divide(void)
{
	zero = 1 / zero;
}

static void t_opcode(void)
{
	asm volatile("ud2");
}

static void t_jump_null(void)
{
	void (*volatile f)(void) = (void *)zero;

	f();
}

static void t_bug(void)
{
	BUG();
}

static void t_warn(void)
{
	WARN_ON(1);
}

static void t_warn_message(void)
{
	WARN(1, "the message comes first, %d\n", 1);
}

static void t_warn_twice(void)
{
	WARN(1, "first\n");
	WARN(1, "second\n");
}

static void t_dump_stack(void)
{
	pr_info("here is a stack\n");
	dump_stack();
}

static noinline long recurse(long depth)
{
	volatile char array[512];

	array[depth % 512] = depth;
	return depth + recurse(depth + 1) + array[3];
}

static void t_stack_overflow(void)
{
	zero = recurse(0);
}

/* The network. */

static void t_dev_hold(void)
{
	struct net_device *dev = dev_get_by_name(&init_net, "dummy0");

	sink = dev;
}

static void t_dev_put(void)
{
	struct net_device *dev;

	rtnl_lock();
	for_each_netdev(&init_net, dev)
		pr_info("%s\n", dev->name);
	rtnl_unlock();
}

static void t_skb_over(void)
{
	struct sk_buff *skb = alloc_skb(64, GFP_KERNEL);

	skb_put(skb, 10000);
}

static netdev_tx_t never_sent(struct sk_buff *skb, struct net_device *dev)
{
	netif_stop_queue(dev);
	dev_kfree_skb(skb);
	return NETDEV_TX_OK;
}

static void on_timeout(struct net_device *dev, unsigned int queue)
{
	netif_trans_update(dev);
}

static const struct net_device_ops stuck_ops = {
	.ndo_start_xmit = never_sent,
	.ndo_tx_timeout = on_timeout,
};

static void stuck_setup(struct net_device *dev)
{
	ether_setup(dev);
	dev->netdev_ops = &stuck_ops;
	dev->watchdog_timeo = HZ;
	eth_hw_addr_random(dev);
}

static void t_netdev_watchdog(void)
{
	struct net_device *dev = alloc_netdev(0, "stuck%d", NET_NAME_UNKNOWN, stuck_setup);
	struct sk_buff *skb = alloc_skb(200, GFP_KERNEL);

	if (register_netdev(dev))
		return;
	rtnl_lock();
	dev_open(dev, NULL);
	rtnl_unlock();
	skb_reserve(skb, 64);
	skb_put_zero(skb, 60);
	skb_reset_mac_header(skb);
	skb->dev = dev;
	dev_queue_xmit(skb);
	msleep(8000);
	unregister_netdev(dev);
	free_netdev(dev);
}

/* Races. */

static long shared;

static int races(void *unused)
{
	unsigned long end = jiffies + seconds * HZ;

	while (time_before(jiffies, end)) {
		shared++;
		cond_resched();
	}
	complete(&finished);
	return 0;
}

static void t_race(void)
{
	kthread_run(races, NULL, "races-1");
	kthread_run(races, NULL, "races-2");
	wait_for_completion(&finished);
	wait_for_completion(&finished);
}

static void t_alloc(void)
{
	kfree(kmalloc(100, GFP_KERNEL));
}

#define T(name) { #name, t_##name }
static const struct {
	const char *name;
	void (*run)(void);
} triggers[] = {
	T(circular), T(recursive), T(inconsistent), T(irq_unsafe), T(held_freed), T(held_exit),
	T(held_user), T(rcu_usage), T(unbalance), T(wait_context), T(non_static), T(atomic_sleep),
	T(atomic_schedule), T(preemptible), T(soft_lockup), T(rcu_stall), T(hung_task),
	T(workqueue), T(oob), T(uaf), T(double_free), T(stack_oob), T(leak), T(refcount),
	T(list_add), T(list_del), T(bad_page), T(slab_redzone), T(slab_twice), T(slab_destroy),
	T(page_alloc), T(vmalloc), T(odebug), T(null), T(gpf), T(paging), T(divide), T(opcode),
	T(jump_null), T(bug), T(warn), T(warn_message), T(warn_twice), T(dump_stack),
	T(stack_overflow), T(dev_hold), T(dev_put), T(skb_over), T(netdev_watchdog), T(race),
	T(alloc),
};

static int __init trigger(void)
{
	int i;

	/* Others that took a lock meanwhile would be found out: those that wait do it later. */
	if (lockdep && strcmp(what, "held_exit") && strcmp(what, "inconsistent") &&
	    strcmp(what, "irq_unsafe"))
		debug_locks = 1;
	for (i = 0; i < ARRAY_SIZE(triggers); i++) {
		if (strcmp(triggers[i].name, what))
			continue;
		triggers[i].run();
		return -EAGAIN;
	}
	return -EINVAL;
}
module_init(trigger);
MODULE_DESCRIPTION("Make a kernel complain in a chosen way");
MODULE_LICENSE("GPL");
