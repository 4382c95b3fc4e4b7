// Replaces operator new by one that a test can let fail.
#include "failing_allocations.hpp"

#include <cstdlib>
#include <new>

namespace monolith {

namespace {

constexpr size_t kNever = static_cast<size_t>(-1);
thread_local size_t left = kNever;
thread_local bool failed = false;

void count_down() {
    if (left == kNever) return;
    if (left > 0) {
        --left;
        return;
    }
    left = kNever;
    failed = true;
    throw std::bad_alloc();
}

void* allocate(size_t size, size_t alignment) {
    count_down();
    size = size > 0 ? (size + alignment - 1) / alignment * alignment : alignment;
    void* const data = alignment <= alignof(std::max_align_t) ? std::malloc(size) : std::aligned_alloc(alignment, size);
    if (!data) throw std::bad_alloc();
    return data;
}

}  // namespace

// NOLINTNEXTLINE(misc-use-internal-linkage): region.hpp declares it in the build of the tests
void before_reserving() { count_down(); }

namespace check {

FailingAllocation::FailingAllocation(size_t count) {
    failed = false;
    left = count;
}
FailingAllocation::~FailingAllocation() { left = kNever; }
bool FailingAllocation::has_failed() const { return failed; }

}  // namespace check

}  // namespace monolith

void* operator new(size_t size) { return monolith::allocate(size, alignof(std::max_align_t)); }
void* operator new[](size_t size) { return monolith::allocate(size, alignof(std::max_align_t)); }
void* operator new(size_t size, std::align_val_t alignment) {
    return monolith::allocate(size, static_cast<size_t>(alignment));
}
void* operator new[](size_t size, std::align_val_t alignment) {
    return monolith::allocate(size, static_cast<size_t>(alignment));
}
void* operator new(size_t size, const std::nothrow_t& /*tag*/) noexcept {
    try {
        return monolith::allocate(size, alignof(std::max_align_t));
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}
void* operator new[](size_t size, const std::nothrow_t& tag) noexcept { return operator new(size, tag); }
void operator delete(void* data, const std::nothrow_t& /*tag*/) noexcept { std::free(data); }
void operator delete[](void* data, const std::nothrow_t& /*tag*/) noexcept { std::free(data); }
void operator delete(void* data) noexcept { std::free(data); }
void operator delete[](void* data) noexcept { std::free(data); }
void operator delete(void* data, size_t) noexcept { std::free(data); }
void operator delete[](void* data, size_t) noexcept { std::free(data); }
void operator delete(void* data, std::align_val_t) noexcept { std::free(data); }
void operator delete[](void* data, std::align_val_t) noexcept { std::free(data); }
void operator delete(void* data, size_t, std::align_val_t) noexcept { std::free(data); }
void operator delete[](void* data, size_t, std::align_val_t) noexcept { std::free(data); }
