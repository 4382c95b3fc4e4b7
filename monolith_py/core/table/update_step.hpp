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
        for (const Slice& slice : content.settings.slices) frees_ = frees_ || frees_rows(slice.optimizer);
    }

    // Number of parts for a batch of n.
    static size_t parts(size_t n) { return parts_of(n, 8192); }

    void begin(size_t parts) {
        parts_.resize(std::max(parts_.size(), parts));
        num_parts_ = parts;
        content_.changes.reserve();
    }
    void run(const uint32_t* rows, size_t n, const Gradients& gradients, size_t part) {
        Part& own = parts_[part];
        own.order.resize(2 * n);
        own.updated.resize(n);
        own.sum.resize(content_.settings.dim());
        if (frees_) own.zeroed.resize(n);
        size_t num = 0;
        uint64_t* order = kernels().sort_rows(rows, n, part, num_parts_, own.order.data(), own.order.data() + n, &num);
        const std::vector<Slice>& slices = content_.settings.slices;
        UpdateJob job{
            .table = content_.store.view(),
            .slices = slices.data(),
            .num_slices = slices.size(),
            .gradients = gradients,
            .order = order,
            .n = num,
            .sum = own.sum.data(),
            .updated = own.updated.data(),
            .zeroed = frees_ ? own.zeroed.data() : nullptr,
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
        }
        if (frees_) free_zeroed();
        ++content_.counts.updates;
        return num_updated;
    }

  private:
    // State of one part.
    struct Part {
        std::vector<uint64_t> order;
        std::vector<float> sum;
        std::vector<uint32_t> updated, zeroed;
        size_t num_updated = 0, num_zeroed = 0;
        std::vector<std::vector<uint32_t>> fresh;  // newly flagged rows, one list per consumer
    };

    // Erase rows that their rule has brought to zero: an absent row reads the same. In the order of rows, so that the
    // result does not depend on parts.
    void free_zeroed() {
        std::vector<uint32_t> zeroed;
        for (size_t p = 0; p < num_parts_; ++p)
            zeroed.insert(zeroed.end(), parts_[p].zeroed.data(), parts_[p].zeroed.data() + parts_[p].num_zeroed);
        std::sort(zeroed.begin(), zeroed.end());
        for (const uint32_t row : zeroed) {
            const Slot slot = content_.map.find(content_.store.fid(row));
            if (!slot || slot.row() != row) continue;
            content_.erase_entry(slot);
            ++content_.counts.freed;
        }
    }

    TableContent& content_;
    bool frees_ = false;  // a rule may bring rows to zero
    std::vector<Part> parts_;
    size_t num_parts_ = 1;
};

}  // namespace monolith
