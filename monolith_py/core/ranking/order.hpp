// Orders of a request's features: in a stored entity, in the row that the candidates share, and in the row of each.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace monolith::ranking {

// Features of one user or item: those whose fid is the entity's id, then the stored ones.
struct EntityOrder {
    uint32_t ids = 0, stored = 0;
    uint32_t width = 0;  // of the stored dense features

    uint32_t features() const { return ids + stored; }
    bool is_stored() const { return stored > 0 || width > 0; }
};

// Features that a request brings itself.
struct ColumnOrder {
    std::vector<std::string> sparse;
    std::vector<std::pair<std::string, uint32_t>> dense;  // name and width

    bool empty() const { return sparse.empty() && dense.empty(); }
    size_t width() const {
        size_t width = 0;
        for (const auto& feature : dense) width += feature.second;
        return width;
    }
};

// One of the two groups of rows. Its dense values end with the live counters, in the order of `counters`.
struct GroupOrder {
    std::vector<uint32_t> features;  // place of each sparse feature in the schema
    std::vector<uint32_t> counters;  // of the features with live counters, their place in `features`
    uint32_t width = 0;              // of the dense values, counters included
    // Rows that the model reads of each sparse feature: n of the first n fids, or (0) one of all fids pooled.
    std::vector<uint32_t> sequences;
    // Place of each dense feature in the schema, behind all sparse ones, and its width.
    std::vector<std::pair<uint32_t, uint32_t>> dense;

    uint32_t num_rows(size_t feature) const { return std::max(sequences[feature], 1u); }
    size_t num_rows() const {
        size_t num = 0;
        for (size_t i = 0; i < features.size(); ++i) num += num_rows(i);
        return num;
    }
};

struct RequestOrder {
    EntityOrder user, item;
    ColumnOrder context;             // of the request
    ColumnOrder candidate;           // of each of its candidates
    GroupOrder shared;               // user, context
    GroupOrder candidates;           // item, candidate
    std::vector<float> no_counter;   // values of a counter that was never counted
    std::vector<std::string> names;  // of all features of the schema, sparse ones first
};

// Rows of packed features, in row order without gaps.
struct Rows {
    std::vector<int64_t> fids;
    std::vector<int32_t> lengths;  // (R, F)
    std::vector<float> dense;      // (R, W)

    size_t num_bytes() const {
        return fids.size() * sizeof(int64_t) + lengths.size() * sizeof(int32_t) + dense.size() * sizeof(float);
    }
};

}  // namespace monolith::ranking
