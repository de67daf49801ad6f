import { list } from '../../rows';

export default async function Page() {
  return <p>{await list()}</p>;
}
