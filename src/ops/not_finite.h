// The error of an op that cannot go on with what is not finite. Others pass it on to their results;
// a router has to choose experts, and no score is the largest.
#pragma once

#include "base/error.h"

namespace minke::ops {

class NotFinite : public Error {
 public:
  using Error::Error;
};

}  // namespace minke::ops
