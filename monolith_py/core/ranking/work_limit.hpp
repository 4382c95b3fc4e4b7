// Estimate of the time that requests need, to refuse those that cannot be answered in time.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <mutex>

namespace monolith::ranking {

// Admits requests whose work, after the work admitted before, fits their time. A unit's time is the shortest of the
// last 16 observations: only what surely comes too late is refused. After 16 refusals without an observation they are
// forgotten, so a false estimate does not last. `num_threads`: requests that run at the same time.
class WorkLimit {
  public:
    explicit WorkLimit(size_t num_threads) : num_threads_(static_cast<double>(num_threads)) {}

    // Hold `work` as pending and return 0, or return the expected seconds if they are more than `left_s`.
    double admit(double work, double left_s) {
        std::lock_guard lock(mutex_);
        double least = num_seen_ == 0 ? 0.0 : seconds_[0];
        for (size_t i = 1; i < num_seen_; ++i) least = std::min(least, seconds_[i]);
        const double expected_s = (pending_ / num_threads_ + work) * least;
        if (expected_s > std::max(left_s, 0.0)) {
            if (++num_refused_ >= kObservations) num_seen_ = next_ = 0;
            return expected_s;
        }
        pending_ += work;
        return 0;
    }
    // End work that was admitted; it took `duration_s`, or was not done (0).
    void done(double work, double duration_s) {
        std::lock_guard lock(mutex_);
        pending_ -= work;
        if (duration_s <= 0) return;
        seconds_[next_] = duration_s / work;
        next_ = (next_ + 1) % kObservations;
        num_seen_ = std::min(num_seen_ + 1, kObservations);
        num_refused_ = 0;
    }

  private:
    static constexpr size_t kObservations = 16;

    const double num_threads_;
    std::mutex mutex_;
    double pending_ = 0;
    size_t num_refused_ = 0, num_seen_ = 0, next_ = 0;
    std::array<double, kObservations> seconds_{};
};

}  // namespace monolith::ranking
