// State of one request of the joiner's state machine (streaming/joiner/request.py). Letters: B candidates.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "index/hash.hpp"
#include "joiner/impression.hpp"

namespace monolith::joiner {

// Later than every deadline.
constexpr int64_t kForeverMs = int64_t{1} << 62;

// Bytes of an impression, shared by its request and the emissions of a step; one block of memory.
class ImpressionBytes {
  public:
    ImpressionBytes() = default;
    explicit ImpressionBytes(std::string_view value)
        : bytes_(std::make_shared_for_overwrite<char[]>(value.size())), size_(value.size()) {
        std::memcpy(bytes_.get(), value.data(), size_);
    }
    std::string_view value() const { return {bytes_.get(), size_}; }
    bool is_there() const { return bytes_ != nullptr; }

  private:
    std::shared_ptr<char[]> bytes_;
    size_t size_ = 0;
};

// State of one candidate.
enum class Status : uint8_t {
    kWaiting = 0,
    kEmitted = 1,
    kSampledAway = 2,
    kRepeated = 3,  // an earlier candidate of the request has the same item and makes the examples
    kKnown = 4,     // its labels are known; it waits for the other candidates of its request
};

enum class Reason : uint8_t { kNoImpression = 0, kNoCandidate = 1, kLate = 2, kExpired = 3, kTooMany = 4 };

// A kind of action without a part in any label or wait: one that the job's settings no longer name.
constexpr uint32_t kNoKind = UINT32_MAX;

// An action and its offset in its partition.
struct SeenAction {
    int64_t offset = 0;
    int64_t item_id = 0;
    int64_t time_ms = 0;
    uint32_t kind = kNoKind;  // index in `Rules::kinds`
    bool is_positive = true;  // its value is above 0
    std::string value;        // of the record
    int64_t clock_ms = 0;     // event time of its topic before it
    int64_t order_ms = 0;     // its place in the order, in a replay
    double number = 1;        // its value
};

// An action after the deadline on a candidate that still waits.
struct LateAction {
    uint32_t row = 0;
    SeenAction seen;
};

// An impression, where it is in its partition, and the event time of its topic before it.
struct Arrival {
    ImpressionBytes impression;
    int64_t offset = 0;
    int64_t clock_ms = 0;
};

struct Request {
    struct Candidate {
        int64_t item_id = 0;
        uint64_t labels = 0;  // so far, in the places of `LabelLayout`
        Status status = Status::kWaiting;
    };
    // Actions that wait; most requests have none.
    struct Actions {
        std::vector<SeenAction> early;  // before the impression, in order of arrival
        std::vector<LateAction> late;   // for candidates that wait, in order of arrival
    };

    std::string id;
    int64_t time_ms = 0;  // event time of the impression
    int64_t deadline_ms = 0;
    int64_t clock_ms = 0;                     // event time of the topic before the impression
    int64_t offset = 0;                       // of the impression in its partition
    ImpressionBytes impression;               // none before it arrives, and once only the log has it
    std::unique_ptr<Candidate[]> candidates;  // (B,)
    std::unique_ptr<double[]> rates;          // (B,), shares of the negatives kept; null: the same for all
    std::unique_ptr<Actions> actions;         // null: none
    uint32_t num_candidates = 0;
    uint32_t num_waiting = 0;  // candidates in kWaiting
    uint32_t num_known = 0;    // candidates in kKnown
    uint32_t impression_bytes = 0;
    uint32_t shared_bytes = 0;     // of the features that all candidates share
    uint32_t place = UINT32_MAX;   // in the heap of due times
    uint32_t state_block = 0;      // block of the store with the newest state; 0: none
    uint32_t change = UINT32_MAX;  // in the list of the changes of this step
    bool has_marks = false;        // the candidates have marks of their items in place of their ids

    bool has_arrived() const { return num_candidates > 0; }
    // Return a hash of an item, another one in each request.
    int64_t mark_of(int64_t item_id) const {
        return static_cast<int64_t>(mix(static_cast<uint64_t>(item_id) ^ mix(static_cast<uint64_t>(offset))) >> 32);
    }
    // Return what the candidate of this item has as its id.
    int64_t key_of(int64_t item_id) const { return has_marks ? mark_of(item_id) : item_id; }
    size_t num_early() const { return actions ? actions->early.size() : 0; }
    bool is_waiting() const { return num_waiting + num_known > 0; }
    Actions& waiting_actions() {
        if (!actions) actions = std::make_unique<Actions>();
        return *actions;
    }
    void set_status(uint32_t row, Status status) {
        Status& before = candidates[row].status;
        num_waiting -= before == Status::kWaiting;
        num_known -= before == Status::kKnown;
        num_waiting += status == Status::kWaiting;
        num_known += status == Status::kKnown;
        before = status;
    }
};

// One example, or one negative that was sampled away.
struct Emission {
    static constexpr uint8_t kLabelled = 0, kRetraction = 1, kSampledAway = 255;
    ImpressionBytes impression;  // none if it is to be read again from the log
    int64_t offset = 0;          // of the impression
    uint32_t row = 0;
    uint8_t kind = kLabelled;
    bool is_first = true;  // of its candidate
    float sample_rate = 1.0F;
    uint64_t labels = 0;
    int64_t time_ms = 0;   // event time of the impression
    int64_t known_ms = 0;  // event time at which the labels were known
};

// An action that was refused.
struct RefusedAction {
    std::string request_id;
    SeenAction seen;
    Reason reason;
};

// Results of steps of the state machine.
struct Outcome {
    std::vector<Emission> emissions;
    std::vector<RefusedAction> refused;
};

}  // namespace monolith::joiner
