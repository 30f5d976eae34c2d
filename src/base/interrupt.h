// Ctrl-C and SIGTERM: the first asks the work to save and leave, the second leaves at once.
#pragma once

#include "base/error.h"

namespace minke {

// A command prints it as one line and exits 130.
class Interrupted : public Error {
 public:
  using Error::Error;
};

// From now on the first signal only says `what` happens now, and sets what interrupted() reads; a
// second one ends the process with exit code 130. A command that never calls this is ended by the
// first, as usual. what: a text that lasts.
void catch_interrupts(const char* what = "stopping after this step");

// What a command says of which no half is worth keeping.
inline constexpr const char* kRemovingHalves = "stopping, and removing what is half done";

// True once a signal came. Loops ask this between steps.
bool interrupted();
// Throws Interrupted once a signal came: for work of which no half is worth keeping.
void stop_if_interrupted();

}  // namespace minke
