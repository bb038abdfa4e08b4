// The threads of one step as fibers of a single thread of the system: they take turns where they wait for
// each other, so that neither the number of processors nor what else runs decides how long that takes.
// ThreadSanitizer takes each for a thread of its own, whose only order is what they make themselves.
#pragma once

#include <ucontext.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

class Together {
  public:
    // Runs body(rank) for each rank below `count`, all at the same time; the order of their turns differs
    // from one call to the next.
    static void run(unsigned count, const std::function<void(unsigned)>& body) {
        Together here(count, body);
        current().store(&here, std::memory_order_release);
        change(here.outside_, here.next_turn());
        here.ended_.load(std::memory_order_acquire);
        current().store(nullptr, kNoOrder);
    }

    static unsigned rank() { return running().turn_.load(kNoOrder); }
    // Lets the others go on.
    static void yield() {
        Together& here = running();
        ucontext_t& own = here.fibers_[rank()].context;
        const Turn next = here.next_turn();
        if (next.context != &own) change(own, next);
    }

  private:
    struct Fiber {
        ucontext_t context;
        std::unique_ptr<char[]> stack{new char[kStackBytes]};
        void* sanitized = nullptr;
        std::atomic<bool> running{true};
    };
    struct Turn {
        ucontext_t* context;
        void* sanitized;
    };

    Together(unsigned count, const std::function<void(unsigned)>& body) : body_(body), fibers_(count) {
        static uint32_t calls = 0;
        do stride_ = 1 + (++calls * 2654435761u >> 8) % count;
        while (std::gcd(stride_, count) != 1);
#if defined(__SANITIZE_THREAD__)
        outside_sanitized_ = __tsan_get_current_fiber();
#endif
        for (Fiber& fiber : fibers_) {
            prepare(fiber);
#if defined(__SANITIZE_THREAD__)
            fiber.sanitized = __tsan_create_fiber(0);
#endif
        }
    }
    ~Together() {
#if defined(__SANITIZE_THREAD__)
        for (Fiber& fiber : fibers_) __tsan_destroy_fiber(fiber.sanitized);
#endif
    }

    [[gnu::noinline]] static void prepare(Fiber& fiber) {
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = kStackBytes;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, &Together::begin, 0);
    }

    static std::atomic<Together*>& current() {
        static std::atomic<Together*> here{nullptr};
        return here;
    }
    static Together& running() { return *current().load(kNoOrder); }
    static void begin() {
        Together& here = *current().load(std::memory_order_acquire);
        Fiber& fiber = here.fibers_[rank()];
        here.body_(rank());
        fiber.running.store(false, kNoOrder);
        const Turn next = here.next_turn();
        here.ended_.fetch_add(1, std::memory_order_release);  // after it nothing is read
        change(fiber.context, next);
    }

    // The next that has not ended, or who called.
    Turn next_turn() {
        const unsigned count = unsigned(fibers_.size()), now = turn_.load(kNoOrder);
        for (unsigned step = 1; step <= count; ++step) {
            const unsigned turn = (now + step * stride_) % count;
            if (!fibers_[turn].running.load(kNoOrder)) continue;
            turn_.store(turn, kNoOrder);
            return {&fibers_[turn].context, fibers_[turn].sanitized};
        }
        return {&outside_, outside_sanitized_};
    }
    // To ThreadSanitizer a turn is no order between what was done before and what is done after.
    static void change(ucontext_t& from, const Turn& next) {
#if defined(__SANITIZE_THREAD__)
        __tsan_switch_to_fiber(next.sanitized, __tsan_switch_to_fiber_no_sync);
#endif
        swapcontext(&from, next.context);
    }

    static constexpr size_t kStackBytes = 1 << 18;
    static constexpr std::memory_order kNoOrder = std::memory_order_relaxed;
    const std::function<void(unsigned)>& body_;
    std::vector<Fiber> fibers_;
    unsigned stride_ = 1;
    std::atomic<unsigned> turn_{0};
    ucontext_t outside_;
    void* outside_sanitized_ = nullptr;
    std::atomic<unsigned> ended_{0};
};

// Where threads that run together wait for each other.
class Meeting {
  public:
    void expect(unsigned count) { count_ = count; }
    void wait() {
        const unsigned round = round_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
            arrived_.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
        } else {
            while (round_.load(std::memory_order_acquire) == round) Together::yield();
        }
    }

  private:
    unsigned count_ = 1;
    std::atomic<unsigned> arrived_{0}, round_{0};
};
