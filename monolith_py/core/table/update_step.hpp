// Update: one optimizer step for each row of a batch, with the sum of its gradients.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "memory/thread_pool.hpp"
#include "table/table_content.hpp"

namespace monolith {

// Phases: `begin`, `run` for all parts, `finish`. A part has the rows that hash to it; parts of `run` may run together,
// everything else needs the table exclusively.
class UpdateStep {
  public:
    explicit UpdateStep(TableContent& content) : content_(content) {
        for (const Slice& slice : content.settings.slices) zeroes_ = zeroes_ || zeroes_rows(slice.optimizer);
    }

    bool may_zero_rows() const { return zeroes_; }
    // Number of parts for a batch of n.
    static size_t parts(size_t n) { return parts_of(n, 8192); }

    // Sources of a batch's gradients, filled by the caller before `begin`; kept, as fresh pages cost more than their
    // use.
    struct Sources {
        std::vector<uint32_t> rows, bags;  // by position
        std::vector<const float*> addresses;
        std::vector<float> scales;

        template <typename T>
        static T* room(std::vector<T>& values, size_t n) {
            if (values.size() < n) values.resize(n);
            return values.data();
        }
    };
    Sources& sources() { return sources_; }

    // Make room for a batch of up to n positions; the other phases do not fail.
    void begin(size_t parts, size_t n) {
        parts_.resize(std::max(parts_.size(), parts));
        num_parts_ = parts;
        for (size_t p = 0; p < parts; ++p) {
            Part& own = parts_[p];
            if (own.order.size() < 2 * n) own.order.resize(2 * n);
            if (own.updated.size() < n) own.updated.resize(n);
            own.sum.resize(content_.settings.dim());
            content_.changes.reserve_fresh(n, own.fresh);
        }
        content_.changes.reserve(n);
    }
    void run(const uint32_t* rows, size_t n, const Gradients& gradients, size_t part) {
        Part& own = parts_[part];
        SortJob sort{
            .rows = rows,
            .sources = gradients.sources,
            .n = n,
            .part = part,
            .parts = num_parts_,
            .end = content_.store.end(),
            .order = own.order.data(),
            .scratch = own.order.data() + n,
            .num = 0,
        };
        const uint64_t* const order = kernels().sort_rows(sort);
        const std::vector<Slice>& slices = content_.settings.slices;
        UpdateJob job{
            .table = content_.store.view(),
            .slices = slices.data(),
            .num_slices = slices.size(),
            .gradients = gradients,
            .order = order,
            .n = sort.num,
            .sum = own.sum.data(),
            .updated = own.updated.data(),
            .counts_zeroed = zeroes_,
            .num_zeroed = 0,
        };
        own.num_updated = kernels().update(job);
        own.num_zeroed = job.num_zeroed;
        content_.changes.flag_updated(own.updated.data(), own.num_updated, own.fresh);
    }
    // Returns the number of updated rows.
    size_t finish() {
        size_t num_updated = 0;
        for (size_t p = 0; p < num_parts_; ++p) {
            content_.changes.append_updated(parts_[p].fresh);
            num_updated += parts_[p].num_updated;
            content_.counts.freed += parts_[p].num_zeroed;
        }
        ++content_.counts.updates;
        return num_updated;
    }

  private:
    // State of one part.
    struct Part {
        std::vector<uint64_t> order;
        std::vector<float> sum;
        std::vector<uint32_t> updated;
        size_t num_updated = 0, num_zeroed = 0;
        std::vector<Changes::Fresh> fresh;  // newly flagged rows, one list per consumer
    };

    TableContent& content_;
    Sources sources_;
    bool zeroes_ = false;  // a rule may bring rows to zero
    std::vector<Part> parts_;
    size_t num_parts_ = 1;
};

}  // namespace monolith
