/** Says so when somebody pastes or drops what is no text: the model reads text only. */

/** Calls `refuse()` for pictures and files that would be lost without a word. */
export function refuseFiles(refuse) {
  document.addEventListener("paste", (event) => {
    const { files, types } = event.clipboardData;
    // A copy out of a document has a picture beside its text; the text is pasted.
    if (files.length > 0 && !types.includes("text/plain")) refuse();
  });
  const hasFiles = (event) => event.dataTransfer.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault(); // else the browser leaves the page to show the file
    refuse();
  });
}
