// Impressions of a replica to bytes (protos/monolith/v1/example.proto), from the packed features of the requests. The
// bytes are those of protobuf's own serializer, which writes fields in the order of their numbers and leaves out zeros
// and empty texts. Letters: R rows, F sparse features, W width of the dense ones, B candidates.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace monolith::codec {

// Rows of packed features (monolith_py/data/packed_rows.py).
struct PackedRows {
    const int64_t* fids;     // (n,)
    const int64_t* starts;   // (R, F), positions in `fids`; null: each bag has one fid, and they follow each other
    const int32_t* lengths;  // (R, F)
    const float* dense;      // (R, W)
    size_t num_rows;
};

// A request that was answered.
struct ServedRequest {
    std::string_view request_id;
    int64_t time_ms;
    int64_t user_id;
    const int64_t* item_ids;  // (B,)
    PackedRows shared;        // one row
    PackedRows candidates;    // B rows
    const float* scores;      // (B, tasks)
    std::string_view model_version;
};

// Features of packed rows, in order.
struct RowFeatures {
    std::vector<std::string> sparse;
    std::vector<std::pair<std::string, size_t>> dense;  // name and width

    size_t width() const;
};

// Append a field of monolith.v1.FeatureColumns. `chosen`: whether it has each feature, sparse ones first; empty: all.
void put_columns(int field, const RowFeatures& features, const PackedRows& rows, const std::vector<bool>& chosen,
                 std::string& out);

class ImpressionEncoder {
  public:
    ImpressionEncoder(RowFeatures shared, RowFeatures candidates, std::vector<std::string> tasks, std::string arm)
        : shared_(std::move(shared)),
          candidates_(std::move(candidates)),
          tasks_(std::move(tasks)),
          arm_(std::move(arm)) {}
    const RowFeatures& shared() const { return shared_; }
    const RowFeatures& candidates() const { return candidates_; }
    size_t num_tasks() const { return tasks_.size(); }
    size_t num_bytes(const ServedRequest& request) const;
    // Write the bytes of an impression, `num_bytes`.
    void encode(const ServedRequest& request, char* out) const;

  private:
    RowFeatures shared_, candidates_;
    std::vector<std::string> tasks_;
    std::string arm_;
};

}  // namespace monolith::codec
