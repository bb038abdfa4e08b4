#include "cpu.h"

#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <system_error>
#include <thread>

namespace hhrnet {

extern const Decoder decoder_portable;
#if defined(HHRNET_X86_VARIANTS)
extern const Decoder decoder_avx2;
extern const Decoder decoder_avx512;
#endif

std::vector<const Decoder*> usable_decoders() {
    std::vector<const Decoder*> usable;
#if defined(HHRNET_X86_VARIANTS)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        usable.push_back(&decoder_avx512);
    if (avx2) usable.push_back(&decoder_avx2);
#endif
    usable.push_back(&decoder_portable);
    return usable;
}

const Decoder* find_decoder(const std::string& name) {
    for (const Decoder* decoder : usable_decoders())
        if (name.empty() || name == decoder->name) return decoder;
    return nullptr;
}

namespace {

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};

struct Block {
    std::unique_ptr<void, Free> memory;
    size_t bytes = 0;
};

// Workspaces between calls: touching fresh pages costs more than decoding an image.
class Pool {
  public:
    Block take(size_t bytes) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            if (!blocks_.empty()) {
                Block block = std::move(blocks_.back());
                blocks_.pop_back();
                if (block.bytes >= bytes && block.bytes / 4 <= bytes) return block;
            }
        }
        void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
        if (memory == nullptr) throw std::bad_alloc();
        return {std::unique_ptr<void, Free>(memory), bytes};
    }
    void give_back(Block block) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (blocks_.size() < kKept) blocks_.push_back(std::move(block));
    }

  private:
    static constexpr size_t kKept = 16;
    std::mutex mutex_;
    std::vector<Block> blocks_;
};

Pool& pool() {
    static Pool* shared = new Pool;  // never destroyed: threads may outlive static destruction
    return *shared;
}

FoundPeople decode_one(const Decoder& decoder, const ImageRequest& request) {
    Block block = pool().take(decoder.workspace(request));
    const ImageResult result = decoder.decode(request, block.memory.get());
    FoundPeople people;
    const size_t count = size_t(result.count), joints = size_t(request.joints);
    people.count = result.count;
    people.unusable = result.unusable != 0;
    people.keypoints.assign(result.keypoints, result.keypoints + count * joints * 3);
    people.scores.assign(result.scores, result.scores + count);
    people.joint_tags.assign(result.joint_tags, result.joint_tags + count * joints * size_t(request.dims));
    pool().give_back(std::move(block));
    return people;
}

}  // namespace

std::vector<FoundPeople> decode_batch(const Decoder& decoder, const std::vector<ImageRequest>& images,
                                      int threads) {
    std::vector<FoundPeople> found(images.size());
    std::atomic<size_t> next{0};
    std::mutex failing;
    std::exception_ptr failure;
    const auto work = [&] {
        for (size_t image = next++; image < images.size(); image = next++) {
            try {
                found[image] = decode_one(decoder, images[image]);
            } catch (...) {
                std::lock_guard<std::mutex> lock(failing);
                failure = std::current_exception();
            }
        }
    };
    std::vector<std::thread> helpers;
    const size_t wanted = std::min(images.size(), size_t(threads < 1 ? 1 : threads));
    for (size_t i = 1; i < wanted; ++i) {
        try {
            helpers.emplace_back(work);
        } catch (const std::system_error&) {
            break;  // no more threads to be had: those that run do the rest
        }
    }
    work();
    for (std::thread& helper : helpers) helper.join();
    if (failure) std::rethrow_exception(failure);
    return found;
}

}  // namespace hhrnet
