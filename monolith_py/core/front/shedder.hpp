// Refusal of calls that would end after their deadline, by the number of calls inside and the time that each took.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <mutex>

namespace monolith::front {

// Calls share the machine, so the time to the end of one grows with the number inside, waiting or running, when it
// came; that time for each of them is the median of the last 16 calls. A call that finds no other is taken, so a false
// prediction does not last.
class Shedder {
  public:
    // Return the place of a call among those inside, 0 if it would end too late.
    size_t enter(double left_s) {
        std::lock_guard lock(mutex_);
        const bool is_known = num_inside_ > 0 && num_seen_ >= kObservations;
        if (is_known && median() * static_cast<double>(num_inside_ + 1) > kLargestShare * left_s) return 0;
        return ++num_inside_;
    }
    // A call that came at `place` has left after `seconds`; 0 seconds tell nothing of others.
    void leave(size_t place, double seconds) {
        std::lock_guard lock(mutex_);
        --num_inside_;
        if (seconds <= 0) return;
        seconds_[num_seen_++ % kObservations] = seconds / static_cast<double>(place);
    }
    size_t num_inside() const {
        std::lock_guard lock(mutex_);
        return num_inside_;
    }

  private:
    static constexpr size_t kObservations = 16;
    static constexpr double kLargestShare = 0.7;

    double median() const {
        std::array<double, kObservations> sorted = seconds_;
        std::nth_element(sorted.begin(), sorted.begin() + kObservations / 2, sorted.end());
        return sorted[kObservations / 2];
    }

    mutable std::mutex mutex_;
    size_t num_inside_ = 0, num_seen_ = 0;
    std::array<double, kObservations> seconds_{};
};

}  // namespace monolith::front
