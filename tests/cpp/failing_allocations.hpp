// Allocations that fail on demand: operator new and the reservation of addresses.
#pragma once

#include <cstddef>

namespace monolith::check {

// Let the allocation after the next `count` ones fail with std::bad_alloc, on the thread of the caller. The destructor
// ends this.
class FailingAllocation {
  public:
    explicit FailingAllocation(size_t count);
    FailingAllocation(const FailingAllocation&) = delete;
    FailingAllocation& operator=(const FailingAllocation&) = delete;
    ~FailingAllocation();
    bool has_failed() const;
};

}  // namespace monolith::check
