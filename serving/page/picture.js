// A file that somebody gives -> what is sent: a large photo is made smaller here, what no model reads is told.
const LONGEST = 1600;     // pixels of a side that are sent; every model sees far fewer
const SMALL = 300_000;    // bytes: such a file is sent as it is
const ADVICE = {
  pdf: "This is a PDF, not a picture. Open it, take a screenshot of the page, and choose that.",
  heic: "This browser cannot read HEIC photos. On an iPhone or iPad: Settings › Camera › Formats › Most Compatible, "
    + "and take it again. On a Mac: open it in Preview and export it as JPEG. On Windows: open it in Photos and save it as JPEG.",
};

export class NoPicture extends Error {}

async function kindOf(file) {
  const head = new TextDecoder("latin1").decode(await file.slice(0, 1024).arrayBuffer());
  if (head.includes("%PDF-")) return "pdf";
  return /^.{4}ftyp(hei|hev|mif1|msf1)/s.test(head) ? "heic" : "";
}

// Resolves to {blob, name, note}. Throws a NoPicture whose message says what to do.
export async function prepared(file) {
  const kind = await kindOf(file), name = file.name || "picture.png";
  if (kind === "pdf") throw new NoPicture(ADVICE.pdf);
  const asItIs = {blob: file, name, note: ""};
  if (kind !== "heic" && (file.size <= SMALL || !/^image\/(jpeg|png|webp|avif)$/.test(file.type))) return asItIs;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);  // upright, by its EXIF orientation
  } catch {
    if (kind === "heic") throw new NoPicture(ADVICE.heic);
    return asItIs;  // the service may read it
  }
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  if (scale === 1 && kind !== "heic") return asItIs;
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  canvas.width = Math.max(1, Math.round(scale * bitmap.width));
  canvas.height = Math.max(1, Math.round(scale * bitmap.height));
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const type = file.type === "image/png" ? "image/png" : "image/jpeg";  // what is transparent stays so
  const blob = await new Promise(done => canvas.toBlob(done, type, 0.92));
  const note = ` Sent with ${canvas.width}×${canvas.height} pixels in place of ${bitmap.width}×${bitmap.height}.`;
  return blob && (blob.size < file.size || kind === "heic") ? {blob, name, note} : asItIs;
}
