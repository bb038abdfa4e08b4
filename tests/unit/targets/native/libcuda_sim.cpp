// A CUDA driver without a card: the calls that the runtime makes, with the kernels of kernels.cu run on the
// host.
//
// It is as unhelpful as a card may be. Work runs only when somebody waits for it, one operation at a time,
// taken from the streams at random (SIM_SEED), so that a missing event shows. New memory holds garbage. An
// address outside live memory makes the operation fail with "illegal memory access". A call without a current
// context fails. Memory is limited (SIM_MEMORY, bytes).
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <utility>

#include "cuda_on_host.h"
#include "kernels.cu"

namespace sim {

enum {
    kOk = 0,
    kInvalidValue = 1,
    kOutOfMemory = 2,
    kInvalidContext = 201,
    kInvalidHandle = 400,
    kNotFound = 500,
    kIllegalAddress = 700,
    kNotSupported = 801,
    kCaptureUnsupported = 900,
    kDeadlock = 999
};

using Done = std::shared_ptr<bool>;

struct Op {
    std::function<int()> run;  // a CUresult
    Done waits;                // an operation that only waits for this
};

struct Stream {
    std::deque<Op> queue;
    bool busy = false;  // one of its operations is running in some thread
    bool capturing = false;
    std::vector<Op> captured;
};

struct Event {
    Done done;
};

struct Graph {
    std::vector<Op> ops;
};

std::recursive_mutex lock;
std::mutex kernel_lock;
std::map<uintptr_t, size_t> device, host;  // address -> bytes
std::set<Stream*> streams;
std::set<Event*> events;
size_t used = 0;
long calls = 0, retained = 0, waits = 0;
int failure = kOk;
thread_local std::vector<void*> contexts;
thread_local std::string last_kernel;
char primary;

size_t memory() {
    const char* text = std::getenv("SIM_MEMORY");
    return text ? std::strtoull(text, nullptr, 10) : size_t(8) << 30;
}

std::mt19937& dice() {
    static std::mt19937 generator(std::getenv("SIM_SEED") ? unsigned(std::atoi(std::getenv("SIM_SEED"))) : 0);
    return generator;
}

bool inside(const std::map<uintptr_t, size_t>& blocks, const void* address, size_t bytes) {
    const uintptr_t at = uintptr_t(address);
    auto next = blocks.upper_bound(at);
    if (next == blocks.begin()) return false;
    --next;
    return at >= next->first && at + bytes <= next->first + next->second;
}

bool on_card(const void* address, size_t bytes = 1) {
    std::lock_guard<std::recursive_mutex> held(lock);
    return inside(device, address, bytes);
}

bool pinned(const void* address, size_t bytes) {
    std::lock_guard<std::recursive_mutex> held(lock);
    return inside(host, address, bytes);
}

// The streams whose next operation can run.
std::vector<Stream*> ready_streams() {
    std::lock_guard<std::recursive_mutex> held(lock);
    std::vector<Stream*> ready;
    for (Stream* stream : streams)
        if (!stream->busy && !stream->queue.empty() &&
            (!stream->queue.front().waits || *stream->queue.front().waits))
            ready.push_back(stream);
    return ready;
}

// One operation of a random stream that can go on; false when there is none.
bool step() {
    std::unique_lock<std::recursive_mutex> held(lock);
    const std::vector<Stream*> ready = ready_streams();
    if (ready.empty()) return false;
    Stream* stream = ready[dice()() % ready.size()];
    Op op = std::move(stream->queue.front());
    stream->queue.pop_front();
    stream->busy = true;
    held.unlock();
    const int result = op.run ? op.run() : int(kOk);
    held.lock();
    stream->busy = false;
    if (result != kOk && failure == kOk) failure = result;
    return true;
}

bool anything_busy() {
    std::lock_guard<std::recursive_mutex> held(lock);
    for (Stream* stream : streams)
        if (stream->busy) return true;
    return false;
}

int run_until(const std::function<bool()>& reached) {
    ++waits;
    while (true) {
        {
            std::lock_guard<std::recursive_mutex> held(lock);
            if (reached()) return failure;
        }
        if (!step()) {
            // Looked at in one go: in between, another thread may finish an operation and make the next one
            // ready.
            std::lock_guard<std::recursive_mutex> held(lock);
            if (!reached() && ready_streams().empty() && !anything_busy()) return int(kDeadlock);
            std::this_thread::yield();
        }
    }
}

int begin() {
    ++calls;
    return contexts.empty() ? int(kInvalidContext) : int(kOk);
}

int enqueue(void* handle, Op op) {
    std::lock_guard<std::recursive_mutex> held(lock);
    Stream* stream = static_cast<Stream*>(handle);
    if (!streams.count(stream)) return kInvalidHandle;
    if (stream->capturing) {
        if (op.waits) return kCaptureUnsupported;
        stream->captured.push_back(std::move(op));
    } else {
        stream->queue.push_back(std::move(op));
    }
    return kOk;
}

// Unpacks the packed arguments of a kernel, each aligned to its size, and runs it with blocks of one thread.
template <class T>
T take(const char*& at, const char* start) {
    const size_t misplaced = size_t(at - start) % sizeof(T);
    if (misplaced) at += sizeof(T) - misplaced;
    T value;
    std::memcpy(&value, at, sizeof(T));
    at += sizeof(T);
    return value;
}

template <class T>
bool fine(T) {
    return true;
}
template <class T>
bool fine(T* pointer) {
    return on_card(pointer);
}

template <class... A>
std::function<int()> prepare(void (*kernel)(A...), const char* data, size_t size, Dim grid, bool* fits) {
    const char* at = data;
    std::tuple<A...> arguments{take<A>(at, data)...};
    *fits = size_t(at - data) == size;
    return [=]() -> int {
        if (!std::apply([](auto... one) { return (fine(one) && ...); }, arguments)) return kIllegalAddress;
        std::lock_guard<std::mutex> held(kernel_lock);
        launch(grid, 1, [&] { std::apply(kernel, arguments); });
        return kOk;
    };
}

const char* const kNames[] = {"aggregate", "aggregate_flip", "peaks", "group", "refine", "warp"};

std::function<int()> kernel_of(const std::string& name, const char* data, size_t size, Dim grid, bool* fits) {
    if (name == "aggregate") return prepare(aggregate, data, size, grid, fits);
    if (name == "aggregate_flip") return prepare(aggregate_flip, data, size, grid, fits);
    if (name == "peaks") return prepare(peaks, data, size, grid, fits);
    if (name == "group") return prepare(group, data, size, grid, fits);
    if (name == "refine") return prepare(refine, data, size, grid, fits);
    return prepare(warp, data, size, grid, fits);
}

}  // namespace sim

using namespace sim;

extern "C" {

// For the tests: work in a stream that calls back, figures, and a fresh start.
int sim_enqueue(void* stream, int (*run)(void*), void* data) {
    return enqueue(stream, {[=] { return run(data); }, nullptr});
}
long sim_waits() { return waits; }
long sim_used() { return long(used); }
long sim_retained() { return retained; }
long sim_live() { return long(device.size() + host.size() + streams.size() + events.size()); }
int sim_inside(const void* address, size_t bytes) { return on_card(address, bytes); }
void sim_reset(unsigned seed) {
    std::lock_guard<std::recursive_mutex> held(lock);
    failure = kOk;
    dice().seed(seed);
}

int cuInit(unsigned) { return kOk; }
int cuDriverGetVersion(int* version) { return *version = 13000, kOk; }
int cuDeviceGet(int* found, int) { return *found = 0, kOk; }
int cuDeviceGetCount(int* count) { return *count = 1, kOk; }
int cuDeviceGetName(char* name, int size, int) { return std::snprintf(name, size_t(size), "Simulated"), kOk; }
int cuDeviceComputeCapability(int* major, int* minor, int) { return *major = 8, *minor = 9, kOk; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 : 0;
    return kOk;
}
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = &primary, ++retained, kOk; }
int cuDevicePrimaryCtxRelease_v2(int) { return --retained, kOk; }
int cuCtxPushCurrent_v2(void* context) { return contexts.push_back(context), kOk; }
int cuCtxPopCurrent_v2(void** context) {
    if (contexts.empty()) return kInvalidContext;
    *context = contexts.back();
    contexts.pop_back();
    return kOk;
}
int cuCtxGetDevice(int* found) { return *found = 0, begin(); }
int cuCtxDetach(void*) { return kOk; }
int cuCtxSynchronize() {
    return run_until([] {
        for (Stream* stream : streams)
            if (stream->busy || !stream->queue.empty()) return false;
        return true;
    });
}
int cuGetErrorString(int code, const char** text) {
    *text = code == kOutOfMemory          ? "out of memory"
            : code == kIllegalAddress     ? "an illegal memory access was encountered"
            : code == kInvalidContext     ? "invalid device context"
            : code == kInvalidHandle      ? "invalid resource handle"
            : code == kNotFound           ? "named symbol not found"
            : code == kCaptureUnsupported ? "operation not permitted when stream is capturing"
            : code == kDeadlock           ? "the simulated card waits for ever"
                                          : "simulated failure";
    return kOk;
}

int cuMemGetInfo_v2(size_t* available, size_t* total) {
    *total = memory();
    *available = *total - used;
    return begin();
}
int cuMemAlloc_v2(void** address, size_t bytes) {
    if (int bad = begin()) return bad;
    std::lock_guard<std::recursive_mutex> held(lock);
    if (used + bytes > memory()) return kOutOfMemory;
    *address = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    std::memset(*address, 0x5b, bytes);
    device[uintptr_t(*address)] = bytes;
    used += bytes;
    return kOk;
}
int cuMemFree_v2(void* address) {
    if (int bad = begin()) return bad;
    std::lock_guard<std::recursive_mutex> held(lock);
    auto found = device.find(uintptr_t(address));
    if (found == device.end()) return kInvalidValue;
    used -= found->second;
    device.erase(found);
    std::free(address);
    return kOk;
}
int cuMemHostAlloc(void** address, size_t bytes, unsigned) {
    if (int bad = begin()) return bad;
    std::lock_guard<std::recursive_mutex> held(lock);
    *address = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    std::memset(*address, 0x5b, bytes);
    host[uintptr_t(*address)] = bytes;
    return kOk;
}
int cuMemFreeHost(void* address) {
    if (int bad = begin()) return bad;
    std::lock_guard<std::recursive_mutex> held(lock);
    if (!host.erase(uintptr_t(address))) return kInvalidValue;
    std::free(address);
    return kOk;
}

static int copy(void* target, const void* source, size_t bytes, bool from_host, bool to_host) {
    if (from_host ? !pinned(source, bytes) : !on_card(source, bytes)) return kIllegalAddress;
    if (to_host ? !pinned(target, bytes) : !on_card(target, bytes)) return kIllegalAddress;
    return std::memcpy(target, source, bytes), int(kOk);
}
int cuMemcpyHtoD_v2(void* target, const void* source, size_t bytes) {
    if (int bad = begin()) return bad;
    if (!on_card(target, bytes)) return kInvalidValue;
    return std::memcpy(target, source, bytes), kOk;
}
int cuMemcpyDtoH_v2(void* target, const void* source, size_t bytes) {
    if (int bad = begin()) return bad;
    if (!on_card(source, bytes)) return kInvalidValue;
    return std::memcpy(target, source, bytes), kOk;
}
int cuMemcpyHtoDAsync_v2(void* target, const void* source, size_t bytes, void* stream) {
    if (int bad = begin()) return bad;
    return enqueue(stream, {[=] { return copy(target, source, bytes, true, false); }, nullptr});
}
int cuMemcpyDtoHAsync_v2(void* target, const void* source, size_t bytes, void* stream) {
    if (int bad = begin()) return bad;
    return enqueue(stream, {[=] { return copy(target, source, bytes, false, true); }, nullptr});
}
int cuMemcpyDtoDAsync_v2(void* target, const void* source, size_t bytes, void* stream) {
    if (int bad = begin()) return bad;
    return enqueue(stream, {[=] { return copy(target, source, bytes, false, false); }, nullptr});
}

int cuStreamCreate(void** made, unsigned) {
    if (int bad = begin()) return bad;
    std::lock_guard<std::recursive_mutex> held(lock);
    Stream* stream = new Stream;
    streams.insert(stream);
    return *made = stream, kOk;
}
int cuStreamDestroy_v2(void* handle) {
    if (int bad = begin()) return bad;
    std::lock_guard<std::recursive_mutex> held(lock);
    return streams.erase(static_cast<Stream*>(handle)) ? int(kOk) : int(kInvalidHandle);
}
int cuStreamSynchronize(void* handle) {
    if (int bad = begin()) return bad;
    Stream* stream = static_cast<Stream*>(handle);
    if (!streams.count(stream)) return kInvalidHandle;
    return run_until([=] { return !stream->busy && stream->queue.empty(); });
}
int cuEventCreate(void** made, unsigned) {
    if (int bad = begin()) return bad;
    std::lock_guard<std::recursive_mutex> held(lock);
    Event* event = new Event;
    events.insert(event);
    return *made = event, kOk;
}
int cuEventDestroy_v2(void* handle) {
    if (int bad = begin()) return bad;
    std::lock_guard<std::recursive_mutex> held(lock);
    return events.erase(static_cast<Event*>(handle)) ? int(kOk) : int(kInvalidHandle);
}
int cuEventRecord(void* handle, void* stream) {
    if (int bad = begin()) return bad;
    Done done = std::make_shared<bool>(false);
    static_cast<Event*>(handle)->done = done;
    if (!stream || uintptr_t(stream) <= 2)
        return *done = true, kOk;  // the default streams are always idle here
    return enqueue(stream, {[=] { return *done = true, int(kOk); }, nullptr});
}
int cuStreamWaitEvent(void* stream, void* handle, unsigned) {
    if (int bad = begin()) return bad;
    Done done = static_cast<Event*>(handle)->done;
    return done ? enqueue(stream, {nullptr, done}) : int(kOk);
}
int cuEventElapsedTime_v2(float* milliseconds, void* first, void* last) {
    const bool over = *static_cast<Event*>(first)->done && *static_cast<Event*>(last)->done;
    return *milliseconds = 0.5f, over ? begin() : int(kInvalidValue);
}
int cuEventSynchronize(void* handle) {
    if (int bad = begin()) return bad;
    Done done = static_cast<Event*>(handle)->done;
    return run_until([=] { return !done || *done; });
}

static int load(void** module) { return *module = &primary, begin(); }
int cuModuleLoadData(void** module, const void*) { return load(module); }
int cuModuleLoadDataEx(void** module, const void*, unsigned, int*, void**) { return load(module); }
int cuModuleUnload(void*) { return begin(); }
int cuModuleGetFunction(void** function, void*, const char* name) {
    for (const char* const& known : kNames)
        if (name == std::string(known)) return *function = const_cast<char*>(known), kOk;
    return kNotFound;
}
int cuFuncSetBlockShape(void*, int, int, int) { return begin(); }
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned,
                   unsigned, void* stream, void**, void** extra) {
    if (int bad = begin()) return bad;
    const char* data = nullptr;
    size_t size = 0;
    for (; extra && *extra; extra += 2) {  // CU_LAUNCH_PARAM_BUFFER_POINTER, _SIZE, _END
        if (uintptr_t(*extra) == 1) data = static_cast<const char*>(extra[1]);
        if (uintptr_t(*extra) == 2) size = *static_cast<size_t*>(extra[1]);
    }
    bool fits = false;
    auto run = kernel_of(static_cast<const char*>(function), data, size, {x, y, z}, &fits);
    return fits && threads == 512 ? enqueue(stream, {run, nullptr}) : int(kInvalidValue);
}

int cuStreamBeginCapture_v2(void* handle, int) {
    if (int bad = begin()) return bad;
    Stream* stream = static_cast<Stream*>(handle);
    stream->capturing = true;
    stream->captured.clear();
    return kOk;
}
int cuStreamEndCapture(void* handle, void** made) {
    Stream* stream = static_cast<Stream*>(handle);
    stream->capturing = false;
    return *made = new Graph{stream->captured}, kOk;
}
int cuGraphInstantiateWithFlags(void** made, void* graph, unsigned long long) {
    return *made = new Graph(*static_cast<Graph*>(graph)), kOk;
}
int cuGraphLaunch(void* handle, void* stream) {
    if (int bad = begin()) return bad;
    Graph* graph = static_cast<Graph*>(handle);
    auto run = [graph] {
        for (const Op& op : graph->ops)
            if (int bad = op.run()) return bad;
        return int(kOk);
    };
    return enqueue(stream, {run, nullptr});
}
int cuGraphExecDestroy(void* graph) { return delete static_cast<Graph*>(graph), kOk; }
int cuGraphDestroy(void* graph) { return delete static_cast<Graph*>(graph), kOk; }

#ifdef SIM_OTHERS
#include SIM_OTHERS
#endif
}
